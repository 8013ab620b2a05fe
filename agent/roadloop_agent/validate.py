"""`roadloop-agent validate`: everything that would stop a vehicle, found before it drives."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from roadloop_agent.config import Config, SlotTable
from roadloop_agent.drive.frames import refuse
from roadloop_agent.drive.pipeline import load_model
from roadloop_agent.drive.sources import opener
from roadloop_agent.drive.sources.signals.survey import LogChoice, SignalReport, Survey, check_slot, survey
from roadloop_agent.onboard import ON_BOARD
from roadloop_agent.selftest import self_test
from roadloop_agent.signals_config import SignalsSource
from roadloop_agent.update.store import RELEASES_NAME, ProvisionedReleases, Store
from roadloop_models.contract.messages import ReleaseRef
from roadloop_models.errors import ConfigError, DataError, RetryLaterError
from roadloop_models.sealed import FileKeyStore, KeyStore


@dataclass(frozen=True)
class SlotReport:
    """What one slot would get."""

    slot: str
    task: str
    variant: str
    source: str
    rate_hz: float
    release: int
    version: str
    providers: tuple[str, ...]
    golden_worst_ratio: float
    sees: str = ""
    """How large the first image of the source is, width x height; nothing where it gives no images."""
    signals: tuple[SignalReport, ...] = ()
    """What a log that was given has of the signals that the slot takes."""


def validate(config: Config, store: Store, logs: Sequence[LogChoice] = ()) -> list[SlotReport]:
    """Check certificates, sources, signatures and bundles; load every model.

    With `logs` the sources of signals are not opened: the logs are run through them, and every slot must find in them
    what it needs.

    Raises ConfigError, DataError, TrustError, BundleError, GoldenMismatchError or RuntimeMissingError for the first
    thing that is wrong.
    """
    from roadloop_agent.link.mqtt import tls_context
    from roadloop_agent.update.trust import verify_provisioned

    broker = config.broker
    tls_context(*(config.identity_path(name) for name in (broker.ca, broker.certificate, broker.key)))
    versions = installed(config, store)
    if not store.is_provisioned():
        verify_provisioned(config.directory / "trust", [ref for ref, _ in versions.values()])
    surveys = survey_logs(config, logs) if logs else {}
    sources = {table.source for table in config.profile.slots.values()} - set(surveys)
    sees = {name: _check_source(config, name) for name in sources}
    keys = FileKeyStore(config.sealing_key_path)
    reports = [_check_slot(name, table, *versions[name], keys) for name, table in config.profile.slots.items()]
    return [
        replace(report, sees=sees.get(report.source, ""), signals=_signals_of(report, surveys)) for report in reports
    ]


def survey_logs(config: Config, logs: Sequence[LogChoice]) -> dict[str, Survey]:
    """What the logs would give each source of signals, by its name.

    Raises ConfigError where there is no such source, and naming the first signal that a slot takes and no log has.
    """
    surveys = {}
    for name in {table.source for table in config.profile.slots.values()}:
        source = config.profile.sources[name]
        if isinstance(source, SignalsSource):
            surveys[name] = survey(source, config.profile_path.parent, logs, config.wanted_signals(name))
    if not surveys:
        raise ConfigError(f"{config.profile_path}: --log is for sources of the kind 'signals'; no slot has one")
    for slot, table in config.profile.slots.items():
        if table.source in surveys:
            on_board = ON_BOARD[table.task]
            check_slot(f"slots.{slot}", on_board.needs, on_board.uses, surveys[table.source])
    return surveys


def _signals_of(report: SlotReport, surveys: dict[str, Survey]) -> tuple[SignalReport, ...]:
    found = surveys.get(report.source)
    if found is None:
        return ()
    on_board = ON_BOARD[report.task]
    paths = (*on_board.needs, *on_board.uses)
    return tuple(found.signals[path] for path in paths if path in found.signals)


def _check_slot(name: str, table: SlotTable, ref: ReleaseRef, directory: Path, keys: KeyStore) -> SlotReport:
    if ref.task != table.task:
        raise ConfigError(f"slots.{name}: is for {table.task}, its release is of {ref.task}")
    model = load_model(directory, table.variant_key, ref, table.providers, keys)
    with contextlib.closing(model):
        providers = model.runner.providers
    return SlotReport(
        slot=name,
        task=table.task,
        variant=table.variant_key,
        source=table.source,
        rate_hz=table.rate_hz,
        release=ref.release,
        version=ref.version,
        providers=providers,
        golden_worst_ratio=self_test(directory, table.variant_key, keys).worst_ratio,
    )


def _check_source(config: Config, name: str) -> str:
    """What its first item is, as `SlotReport.sees` says it."""
    source = config.profile.sources[name]
    items = opener(source, config.source_path(source), time.monotonic, config.wanted_signals(name))(refuse)
    try:
        first = next((item for item in items if item is not None), None)
    except (DataError, ConfigError) as error:
        raise type(error)(f"sources.{name}: {error}") from error
    except RetryLaterError as error:
        raise ConfigError(f"sources.{name}: {error}") from error
    if first is None:
        raise DataError(f"sources.{name}: has nothing to give")
    if not isinstance(first.data, np.ndarray):
        return ""
    height, width = first.data.shape[:2]
    return f"{width}x{height}"


def installed(config: Config, store: Store) -> dict[str, tuple[ReleaseRef, Path]]:
    """Slot -> the release that it would run, and where that lies."""
    slots = config.profile.slots
    if store.is_provisioned():
        refs = {name: state.trial or state.confirmed for name, state in store.read().slots.items() if name in slots}
        return {name: (ref, store.version_directory(ref)) for name, ref in refs.items()}
    releases = read_releases(config.directory)
    for name in slots:
        if name not in releases:
            raise ConfigError(f"{config.directory / RELEASES_NAME}: no release for slot '{name}'")
    folder = config.directory / "releases"
    return {name: (releases[name], folder / releases[name].manifest_sha256) for name in slots}


def read_releases(directory: Path) -> dict[str, ReleaseRef]:
    """The releases that a vehicle was provisioned with. Raises ConfigError."""
    import msgspec

    from roadloop_models.typed import from_json

    path = directory / RELEASES_NAME
    try:
        return from_json(path.read_bytes(), ProvisionedReleases).slots
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}; provision the vehicle anew") from error
