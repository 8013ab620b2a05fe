"""Which releases are signed: python-tuf's client on the image repository, with a memory that a torn file cannot lose.

Beyond what `ngclient` does, and why:

- the factory root is passed as bootstrap each time, so a kill inside a refresh cannot leave a client without trust
- the highest version seen of each role, those of all tasks included, is kept durably beside the metadata: `ngclient`
  forgets it with an emptied file. New keys for snapshot or timestamp begin it again, as the specification's 5.3.11
  asks: who stole the old ones may have signed a version so high that no honest one ever exceeds it
- the time of the last good refresh is a floor for the clock, so a vehicle that wakes up in 1970 does not take what has
  expired since. A clock that is far ahead cannot poison the floor: with it no refresh succeeds.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import msgspec
from tuf.api.exceptions import (
    DownloadError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    RepositoryError,
)
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from roadloop_agent.update import disk
from roadloop_agent.update.fetch import MAX_METADATA_BYTES, METADATA_URL, TARGETS_URL
from roadloop_agent.update.refused import MetadataError
from roadloop_models.bundle import MANIFEST_NAME, FileEntry
from roadloop_models.bundle.delta import patch_name
from roadloop_models.contract.messages import ReleaseRef
from roadloop_models.errors import ConfigError, RetryLaterError, TrustError

_LOG = logging.getLogger(__name__)


class Fetcher(Protocol):
    """The part of python-tuf's FetcherInterface that its client calls; BlockFetcher has it without importing tuf."""

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """A metadata file."""

    def download_file(self, url: str, max_length: int) -> AbstractContextManager[BinaryIO]:
        """A target."""


class Floor(msgspec.Struct, frozen=True):
    """The least that is believed: versions by role, and the time of the last refresh that held."""

    versions: dict[str, int]
    time: datetime
    keys: tuple[str, ...] = ()
    """The keys of snapshot and timestamp that vouched for the versions."""


class Trust:
    """See the module. `directory`: the client's memory; `provisioned`: `trust/` of the provisioning folder."""

    def __init__(self, directory: Path, provisioned: Path, fetcher: Fetcher, clock: Callable[[], datetime]) -> None:
        self._directory = directory
        self._metadata = directory / "metadata"
        self._provisioned = provisioned
        self._fetcher = fetcher
        self._clock = clock

    def refresh(self) -> "SignedTargets":
        """Fetch what is new and verify all of it.

        Raises MetadataError where a signature, version or expiry does not hold (rollback, freeze, mix-and-match,
        endless data, truncated files), RetryLaterError where the repository does not answer, DiskFullError.
        """
        floor = self._floor()
        now = max(self._clock(), floor.time)
        with _errors(MetadataError, now), disk.disk_errors(self._directory):
            self._seed()
            updater = Updater(
                str(self._metadata),
                METADATA_URL,
                target_base_url=TARGETS_URL,
                fetcher=cast(FetcherInterface, self._fetcher),
                config=UpdaterConfig(
                    root_max_length=MAX_METADATA_BYTES,
                    snapshot_max_length=MAX_METADATA_BYTES,
                    targets_max_length=MAX_METADATA_BYTES,
                ),
                bootstrap=_read(self._provisioned / "root.json"),
            )
            trusted = updater._trusted_set
            trusted.reference_time = now  # the client reads the clock itself, and has no other way to be told
            updater.refresh()
            raised = _raise(floor, trusted.root, trusted.timestamp, trusted.snapshot, now)
            if raised != floor:
                disk.write_durably(self._directory / "floor.json", msgspec.json.encode(raised))
        return SignedTargets(updater, now)

    def _seed(self) -> None:
        """Begin with the metadata of the day of provisioning: less to fetch, and a floor from the first day on."""
        self._metadata.mkdir(parents=True, exist_ok=True)
        for stale in self._metadata.glob("tmp*"):
            stale.unlink()  # a kill inside the client leaves its temporary files
        for source in (self._provisioned / "metadata").glob("*.json"):
            target = self._metadata / source.name
            if source.stem != "root" and not target.exists():  # the client follows the roots itself, one by one
                disk.write_durably(target, source.read_bytes())

    def _floor(self) -> Floor:
        path = self._directory / "floor.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Floor)
        except FileNotFoundError:
            pass
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            _LOG.error("%s: %s; beginning again with the versions of the day of provisioning", path, error)
        return _provisioned_floor(self._provisioned)


@dataclass(frozen=True)
class SignedTargets:
    """What the repository signs now; from one refresh."""

    updater: Updater
    now: datetime

    def manifest(self, ref: ReleaseRef) -> TargetFile:
        """The manifest of a release. Raises TrustError where what is signed is not what `ref` names."""
        path = f"{ref.task}/{ref.release}/{MANIFEST_NAME}"
        target = self._find(path)
        if target.hashes.get("sha256") != ref.manifest_sha256:
            raise TrustError(f"{path}: the signed SHA-256 is {target.hashes.get('sha256')}, not {ref.manifest_sha256}")
        _check_custom(path, target, ref)
        return target

    def file(self, ref: ReleaseRef, entry: FileEntry) -> TargetFile:
        """A file of a release. Raises TrustError where what is signed is not what the manifest says."""
        path = f"{ref.task}/{ref.release}/{entry.path}"
        target = self._find(path)
        if (target.hashes.get("sha256"), target.length) != (entry.sha256, entry.size_bytes):
            raise TrustError(f"{path}: signed with another length or SHA-256 than its manifest says")
        return target

    def patch(self, ref: ReleaseRef, entry: FileEntry, base_sha256: str) -> TargetFile | None:
        """The patch that makes a file of a release from the one with that SHA-256; None where none is signed."""
        with _errors(MetadataError, self.now):
            target = self.updater.get_targetinfo(f"{ref.task}/{ref.release}/{patch_name(entry.path, base_sha256)}")
        signed = (target.custom or {}) if target is not None else {}
        return target if (signed.get("from"), signed.get("to")) == (base_sha256, entry.sha256) else None

    def download(self, target: TargetFile, path: Path) -> None:
        """Fetch, verify and place a target; what is at `path` already and sound is not fetched again.

        Raises TrustError where the content is not what is signed, RetryLaterError, DiskFullError.
        """
        incoming = path.with_name(f".{path.name}.incoming")
        with _errors(TrustError, self.now), disk.disk_errors(path):
            if self.updater.find_cached_target(target, str(path)) is not None:
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            # Never written in place: the old content may be shared with an installed version.
            self.updater.download_target(target, str(incoming))
            incoming.rename(path)

    def _find(self, path: str) -> TargetFile:
        with _errors(MetadataError, self.now):
            target = self.updater.get_targetinfo(path)
        if target is None:
            raise MetadataError(f"{path}: not among the signed targets")
        return target


def verify_provisioned(provisioned: Path, refs: Iterable[ReleaseRef]) -> None:
    """Check the releases of the provisioning folder against its own signed metadata, offline.

    Expiry does not matter here: a vehicle may stand for a year before its first start. Raises TrustError.
    """
    with _errors(TrustError, datetime.now(UTC)):
        factory = Metadata[Root].from_bytes(_read(provisioned / "root.json"))
        root = Metadata[Root].from_bytes(_read(provisioned / "metadata" / "root.json"))
        factory.verify_delegate("root", factory)
        factory.verify_delegate("root", root)  # where it was renewed since: also by the keys that the vehicle is given
        root.verify_delegate("root", root)
        targets = Metadata[Targets].from_bytes(_read(provisioned / "metadata" / "targets.json"))
        root.verify_delegate("targets", targets)
        for ref in refs:
            _verify_given(provisioned, targets, ref)


def _verify_given(provisioned: Path, targets: Metadata[Targets], ref: ReleaseRef) -> None:
    path = f"{ref.task}/{ref.release}/{MANIFEST_NAME}"
    found = targets.signed.targets.get(path)
    delegations = targets.signed.delegations
    for role, _ in delegations.get_roles_for_target(path) if delegations is not None and found is None else ():
        delegated = Metadata[Targets].from_bytes(_read(provisioned / "metadata" / f"{role}.json"))
        targets.verify_delegate(role, delegated)
        found = found or delegated.signed.targets.get(path)
    if found is None or found.hashes.get("sha256") != ref.manifest_sha256:
        raise TrustError(f"{provisioned}: {path} is not signed with SHA-256 {ref.manifest_sha256}")
    _check_custom(path, found, ref)


def _check_custom(path: str, target: TargetFile, ref: ReleaseRef) -> None:
    signed = target.custom or {}
    named = {"task": ref.task, "release": ref.release, "version": ref.version}
    if {key: signed.get(key) for key in named} != named:
        raise TrustError(f"{path}: signed as {signed}, the desired state names {named}")


def _raise(floor: Floor, root: Root, timestamp: Timestamp, snapshot: Snapshot, now: datetime) -> Floor:
    """The floor after a refresh. Raises MetadataError where a role is older than it was, or gone."""
    keys = _vouching_keys(root)
    believed = floor.versions if keys == floor.keys else {"root": floor.versions.get("root", 0)}
    versions = _versions(root, timestamp, snapshot)
    for role, least in believed.items():
        if versions.get(role, 0) < least:
            raise MetadataError(
                f"{role}: version {versions.get(role, 'none')} is offered, {least} was seen before: rollback"
            )
    return Floor(versions, now, keys)


def _versions(root: Root, timestamp: Timestamp, snapshot: Snapshot) -> dict[str, int]:
    """By role; the snapshot names targets and each task's role, also those that nobody here has fetched."""
    signed = {"root": root.version, "timestamp": timestamp.version, "snapshot": snapshot.version}
    return signed | {name.removesuffix(".json"): meta.version for name, meta in snapshot.meta.items()}


def _vouching_keys(root: Root) -> tuple[str, ...]:
    return tuple(sorted({*root.roles["snapshot"].keyids, *root.roles["timestamp"].keyids}))


def _provisioned_floor(provisioned: Path) -> Floor:
    """The versions of the metadata that the vehicle was given; of no role but root where it was given no more."""
    beginning = datetime.fromtimestamp(0, UTC)
    given = provisioned / "metadata"
    with _errors(MetadataError, beginning):
        if not given.is_dir():
            return Floor(
                {"root": Metadata[Root].from_bytes(_read(provisioned / "root.json")).signed.version}, beginning
            )
        root = Metadata[Root].from_bytes(_read(given / "root.json")).signed
        timestamp = Metadata[Timestamp].from_bytes(_read(given / "timestamp.json")).signed
        snapshot = Metadata[Snapshot].from_bytes(_read(given / "snapshot.json")).signed
        return Floor(_versions(root, timestamp, snapshot), beginning, _vouching_keys(root))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; provision the vehicle anew") from error


@contextmanager
def _errors(refused: type[TrustError], now: datetime) -> Iterator[None]:
    """Turn the client's errors into `refused` or RetryLaterError."""
    try:
        yield
    except ExpiredMetadataError as error:
        raise refused(
            f"{error} at {now:%Y-%m-%d %H:%M} UTC: the cloud has not renewed it, or the vehicle's clock is wrong"
        ) from error
    except (RepositoryError, DownloadLengthMismatchError) as error:
        raise refused(str(error)) from error
    except DownloadError as error:  # among them: the repository has no such file
        raise RetryLaterError(str(error)) from error
