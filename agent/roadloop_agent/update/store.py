"""The versions on a vehicle's disk, and which of them each slot runs.

    versions/<manifest_sha256>/   immutable; only the files of the variants that this vehicle runs
    state.json                    what state.py describes, as statefile.py writes it
    lock                          held for every read-modify-write: link and drive both use the store

At every instant `state.json` names only versions that are complete on disk: a version is made durable before the state
that names it, and removed only when no state names it. Errors of the disk are DiskFullError or RetryLaterError and
leave everything as it was; `load_for_start` alone gets by without writing.
"""

import fcntl
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec

from roadloop_agent.update import disk
from roadloop_agent.update import state as states
from roadloop_agent.update.state import Ended, Outcome, Ready, Slots, SlotState, StoreState, Trial
from roadloop_agent.update.statefile import StateFile
from roadloop_agent.update.versions import install_version, open_version
from roadloop_models.bundle import MANIFEST_NAME, FileEntry, check_file, parse_manifest
from roadloop_models.contract.messages import ErrorInfo, ReleaseRef
from roadloop_models.errors import BadInputError, BundleError, ConfigError, RetryLaterError, RoadloopError
from roadloop_models.typed import from_json

__all__ = ["RELEASES_NAME", "InstalledVersion", "ProvisionedReleases", "Store", "error_info", "open_version"]

_LOG = logging.getLogger(__name__)
RELEASES_NAME = "releases.json"

Change: TypeAlias = Callable[[Slots], dict[str, SlotState]]


class ProvisionedReleases(msgspec.Struct, frozen=True):
    """`releases.json` of the provisioning folder: the release that each slot begins with."""

    slots: Annotated[dict[str, ReleaseRef], msgspec.Meta(min_length=1)]


@dataclass(frozen=True)
class InstalledVersion:
    """What drive loads: the release, where its bundle lies, and whether it is on trial."""

    ref: ReleaseRef
    directory: Path
    on_trial: bool


class Store:
    """See the module. `variants`: slot -> variant key (`onnx-int8`); `factory`: the provisioning folder."""

    def __init__(self, directory: Path, variants: Mapping[str, str], factory: Path) -> None:
        self._directory = directory
        self._variants = dict(variants)
        self._factory = factory
        self._state = StateFile(directory)

    # What both processes ask.

    def is_provisioned(self) -> bool:
        """Whether every slot has a version that it was provisioned with."""
        return self._state.exists() and set(self._variants) <= set(self.read().slots)

    def provision(self, verify: Callable[[Iterable[ReleaseRef]], None]) -> None:
        """Install the releases of the provisioning folder for every slot that has none yet; idempotent.

        `verify` checks their signatures. Raises ConfigError where `releases.json` is unreadable or lacks a slot,
        TrustError where a signature does not hold, BundleError where a bundle is incomplete, DiskFullError.
        """
        releases = self._provisioned_releases()
        verify([releases[slot] for slot in self._variants])
        with self._locked():
            self._provision(self._read_or(StoreState()), releases)

    def start(self, slots: Iterable[str]) -> dict[str, InstalledVersion | RoadloopError]:
        """What drive runs in these slots now that it starts: spends a try of each trial, all in one write.

        Every file is hashed. A version that is damaged on disk gives way to the next: trial, confirmed, previous,
        provisioned; with one on trial those go that are on trial together with it, and with one that is confirmed those
        that were confirmed together with it. In the place of a version is the error where not even the provisioned
        release is whole (BundleError), or where there is none (ConfigError).
        """
        names = list(slots)
        try:
            with self._locked():
                return self._start(names)
        except RetryLaterError as error:
            _LOG.error("the disk cannot be written: %s; starting without what is on trial, if there is any", error)
            return self._start_read_only(names)
        except RoadloopError as error:
            return dict.fromkeys(names, error)

    def load_for_start(self, slot: str) -> InstalledVersion:
        """The same for one slot; raises its error."""
        version = self.start([slot])[slot]
        if isinstance(version, RoadloopError):
            raise version
        return version

    def take_back(self, ended: Mapping[str, Ended]) -> dict[str, SlotState]:
        """End trials, and all that go together with them, in one write. No change where a release is not on trial.

        With an error the release is not tried again.
        """
        return self._change(lambda slots: states.take_back(slots, ended), ended)

    # What the update service asks.

    def read(self) -> StoreState:
        """The state as it is now. Raises ConfigError where there is none, BundleError where it is damaged."""
        return self._state.read()

    def slot(self, slot: str) -> SlotState:
        """The state of one slot. Raises ConfigError where the store has no such slot."""
        return self._slot(self.read(), slot)

    def version_directory(self, ref: ReleaseRef) -> Path:
        """Where the bundle of a release lies when it is installed."""
        return self._directory / "versions" / ref.manifest_sha256

    def accept_desired(self, version: int) -> bool:
        """Remember the newest desired version; False where a newer one was accepted before."""
        with self._locked():
            stored = self._read_or_provisioned()
            if version > stored.desired_version:
                self._state.write(msgspec.structs.replace(stored, desired_version=version))
            return version >= stored.desired_version

    def install(self, slot: str, ref: ReleaseRef, staged: Path) -> Path:
        """Make a staged bundle durable under `versions/` for the slot's variant; idempotent. `staged` is kept.

        Raises BundleError where what is staged is not what `ref` and its manifest say, DiskFullError.
        """
        with self._locked():
            self._install(staged, ref, self._variants[slot])
        return self.version_directory(ref)

    def begin_trials(self, trials: Mapping[str, Trial]) -> dict[str, SlotState]:
        """Put installed releases on trial, together and in one write, before drive is told.

        Raises BundleError, ConflictError; then none of them is on trial.
        """
        with self._locked():
            for slot, trial in trials.items():
                if (error := self._damage(trial.ref, slot)) is not None:
                    raise error
            return self._change_locked(lambda slots: states.begin_trials(slots, trials), trials)

    def confirm(self, refs: Mapping[str, ReleaseRef]) -> dict[str, SlotState]:
        """Keep the releases on trial, in one write; those before stay to fall back on. Raises ConflictError."""
        return self._change(lambda slots: states.confirm(slots, {**self._orphans(slots, refs), **refs}), refs)

    def refuse(self, slot: str, ref: ReleaseRef, error: ErrorInfo) -> SlotState:
        """Remember that a release is not acceptable."""
        outcome = Outcome(ref=ref, result="refused", error=error)
        return self._change(lambda slots: {**slots, slot: states.record(slots[slot], outcome)}, [slot])[slot]

    def remember_ready(self, slot: str, ready: Ready | None) -> SlotState:
        """Keep what is installed and waits for its moment, or forget it."""

        def remember(slots: Slots) -> dict[str, SlotState]:
            return {**slots, slot: msgspec.structs.replace(slots[slot], ready=ready)}

        return self._change(remember, [slot])[slot]

    def provide(self, entry: FileEntry, target: Path) -> bool:
        """Give `target` the content of `entry` from an installed version; False where none has it."""
        for directory in self._version_directories():
            try:
                manifest = parse_manifest((directory / MANIFEST_NAME).read_bytes())
                twin = next(file for file in manifest.files if file.sha256 == entry.sha256)
                check_file(directory / twin.path, entry)
            except (OSError, BundleError, StopIteration):
                continue
            with disk.disk_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.unlink(missing_ok=True)
                disk.link_or_copy(directory / twin.path, target)
            return True
        return False

    def files_of(self, task: str) -> Iterator[tuple[FileEntry, Path]]:
        """The files of the installed versions of a task, as their manifests list them; whether whole is not checked."""
        for directory in self._version_directories():
            try:
                manifest = parse_manifest((directory / MANIFEST_NAME).read_bytes())
            except (OSError, BundleError):
                continue
            if manifest.task == task:
                paths = ((entry, directory / entry.path) for entry in manifest.files)
                yield from ((entry, path) for entry, path in paths if path.is_file())

    def collect_garbage(self, wanted: Iterable[ReleaseRef] = ()) -> list[str]:
        """Remove the versions that no slot needs; their names.

        Keeps trial, confirmed, previous and what is ready of every slot, and what is `wanted` beside.
        """
        with self._locked():
            stored = self._read_or_provisioned()
            refs = [*wanted, *(ref for state in stored.slots.values() for ref in state.kept)]
            kept = {ref.manifest_sha256 for ref in refs}
            removed = [path for path in self._version_directories() if path.name not in kept]
            for path in removed:
                disk.remove_tree(path)
            return [path.name for path in removed]

    # Inside.

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with disk.disk_errors(self._directory):
            (self._directory / "versions").mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)

    def _change(self, change: Change, named: Iterable[str]) -> dict[str, SlotState]:
        with self._locked():
            return self._change_locked(change, named)

    def _change_locked(self, change: Change, named: Iterable[str]) -> dict[str, SlotState]:
        """One write at most; the slots that are named, as they are now."""
        stored = self._read_or_provisioned()
        for slot in named:
            self._slot(stored, slot)
        after = change(stored.slots)
        if after != stored.slots:
            self._state.write(msgspec.structs.replace(stored, slots=after))
        return {slot: after[slot] for slot in named}

    def _orphans(self, slots: Slots, refs: Iterable[str]) -> dict[str, ReleaseRef]:
        """The trials that go together with these, in slots which the profile has no more: nobody else ends them."""
        gone = {other for slot in refs for other in slots[slot].group if other not in self._variants and other in slots}
        return {slot: trial for slot in gone if (trial := slots[slot].trial) is not None}

    def _read_or(self, default: StoreState) -> StoreState:
        if not self._state.exists():
            return default
        try:
            return self.read()
        except BundleError as error:
            # Only a fault of the disk can do this. The vehicle goes on with what it was provisioned with; the damaged
            # file is kept for a person.
            _LOG.error("%s; the slots begin again with the provisioned releases", error)
            self._state.set_aside()
            return default

    def _read_or_provisioned(self) -> StoreState:
        if not self._state.exists():
            return self.read()
        stored = self._read_or(StoreState())
        return stored if stored.slots else self._provision(stored, self._provisioned_releases())

    def _slot(self, stored: StoreState, slot: str) -> SlotState:
        if slot not in stored.slots:
            raise ConfigError(f"{self._directory}: no slot '{slot}'; it has {', '.join(sorted(stored.slots))}")
        return stored.slots[slot]

    def _provisioned_releases(self) -> dict[str, ReleaseRef]:
        path = self._factory / RELEASES_NAME
        try:
            releases = from_json(path.read_bytes(), ProvisionedReleases).slots
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: {error}; provision the vehicle anew") from error
        for slot in self._variants:
            if slot not in releases:
                raise ConfigError(f"{path}: no release for slot '{slot}' of the profile; provision the vehicle anew")
        return releases

    def _provision(self, stored: StoreState, releases: Mapping[str, ReleaseRef]) -> StoreState:
        slots = dict(stored.slots)
        for slot, variant in self._variants.items():
            ref = releases[slot]
            if slot in slots and slots[slot].confirmed.task == ref.task:
                continue
            self._install(self._factory / "releases" / ref.manifest_sha256, ref, variant)
            slots[slot] = SlotState(confirmed=ref)
        provisioned = msgspec.structs.replace(stored, slots=slots)
        if provisioned != stored or not self._state.exists():
            self._state.write(provisioned)
        return provisioned

    def _start(self, names: list[str]) -> dict[str, InstalledVersion | RoadloopError]:
        stored = self._read_or_provisioned()
        slots = dict(stored.slots)
        errors: dict[str, InstalledVersion | RoadloopError] = {}
        for slot in names:
            self._slot(stored, slot)
            slots = states.spend_try(slots, slot)
        for slot in names:
            trial = slots[slot].trial
            if trial is not None and (error := self._damage(trial, slot)) is not None:
                slots = states.take_back(slots, {slot: Ended(trial, error_info(error))})
        for slot in names:
            try:
                if slots[slot].trial is None:
                    slots = self._first_whole(slot, slots)
            except BadInputError as error:
                errors[slot] = error
        if slots != stored.slots:
            self._state.write(msgspec.structs.replace(stored, slots=slots))
        return {slot: self._installed(slots[slot]) for slot in names} | errors

    def _installed(self, state: SlotState) -> InstalledVersion:
        ref = state.trial or state.confirmed
        return InstalledVersion(ref, self.version_directory(ref), state.trial is not None)

    def _start_read_only(self, names: list[str]) -> dict[str, InstalledVersion | RoadloopError]:
        """A try cannot be spent, so nothing on trial runs."""
        try:
            slots = self.read().slots
        except BadInputError:
            slots = {}
        versions: dict[str, InstalledVersion | RoadloopError] = {}
        for slot in names:
            try:
                versions[slot] = self._whole_read_only(slot, slots.get(slot))
            except RoadloopError as error:
                versions[slot] = error
        return versions

    def _whole_read_only(self, slot: str, state: SlotState | None) -> InstalledVersion:
        for ref in () if state is None else (state.confirmed, state.previous):
            if ref is not None and self._damage(ref, slot) is None:
                return InstalledVersion(ref, self.version_directory(ref), on_trial=False)
        ref = self._provisioned_releases()[slot]
        directory = self._factory / "releases" / ref.manifest_sha256
        open_version(directory, ref, self._variants[slot])
        return InstalledVersion(ref, directory, on_trial=False)

    def _first_whole(self, slot: str, slots: dict[str, SlotState]) -> dict[str, SlotState]:
        error = self._damage(slots[slot].confirmed, slot)
        if error is None:
            return slots
        _LOG.error("slot %s: %s; falling back", slot, error)
        together = [each for each in slots[slot].partners if each in self._variants and each in slots] or [slot]
        fallen = {each: self._fallen(each, slots[each]) for each in together}
        return {**states.part(slots, slot), **fallen}

    def _fallen(self, slot: str, state: SlotState) -> SlotState:
        if state.previous is not None and self._damage(state.previous, slot) is None:
            return msgspec.structs.replace(state, confirmed=state.previous, previous=None, partners=())
        ref = self._provisioned_releases()[slot]
        self._install(self._factory / "releases" / ref.manifest_sha256, ref, self._variants[slot])
        return msgspec.structs.replace(state, confirmed=ref, previous=None, partners=())

    def _damage(self, ref: ReleaseRef, slot: str) -> BadInputError | None:
        try:
            open_version(self.version_directory(ref), ref, self._variants[slot])
        except BadInputError as error:
            return error
        return None

    def _version_directories(self) -> list[Path]:
        parent = self._directory / "versions"
        return sorted(parent.iterdir()) if parent.is_dir() else []

    def _install(self, source: Path, ref: ReleaseRef, variant: str) -> None:
        """What lies in the provisioning folder is copied: it is another's, and may be on another disk."""
        link = source.parent != self._factory / "releases"
        install_version(source, self.version_directory(ref), ref, variant, link=link)


def error_info(error: Exception) -> ErrorInfo:
    """An error as it is reported."""
    code = getattr(error, "code", "failed")
    return ErrorInfo(code=str(code)[:40], detail=(str(error) or type(error).__name__)[:500])
