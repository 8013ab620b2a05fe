"""Which releases are signed: python-tuf's client on the image repository, with a memory that a torn file cannot lose.

Beyond what `ngclient` does, and why:

- the factory root is passed as bootstrap each time, so a kill inside a refresh cannot leave a client without trust
- the highest version seen of each role, those of all tasks included, is kept durably beside the metadata: `ngclient`
  forgets it with an emptied file (floor.py)
- the time of the last good refresh is a floor for the clock, so a vehicle that wakes up in 1970 does not take what has
  expired since. A clock that is far ahead cannot poison the floor: with it no refresh succeeds.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient import Updater

from roadloop_agent.update import disk
from roadloop_agent.update.fetch import METADATA_URL, TARGETS_URL
from roadloop_agent.update.floor import Floor, raised, read_floor, versions_of, vouching_keys, write_floor
from roadloop_agent.update.refused import MetadataError
from roadloop_agent.update.tuf_client import Fetcher, open_client, provisioned_file
from roadloop_agent.update.tuf_errors import tuf_errors
from roadloop_models.bundle import MANIFEST_NAME, FileEntry
from roadloop_models.bundle.delta import patch_name
from roadloop_models.contract.messages import ReleaseRef
from roadloop_models.errors import TrustError


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
        with disk.disk_errors(self._directory):
            floor = read_floor(self._directory / "floor.json") or _provisioned_floor(self._provisioned)
        now = max(self._clock(), floor.time)
        with tuf_errors(MetadataError, now), disk.disk_errors(self._directory):
            self._seed()
            root = provisioned_file(self._provisioned / "root.json")
            updater = open_client(self._metadata, METADATA_URL, TARGETS_URL, self._fetcher, root=root, now=now)
            updater.refresh()
            trusted = updater._trusted_set
            risen = raised(floor, trusted.root, trusted.timestamp, trusted.snapshot, now)
            if risen != floor:
                write_floor(self._directory / "floor.json", risen)
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


@dataclass(frozen=True)
class SignedTargets:
    """What the repository signs now; from one refresh."""

    updater: Updater
    now: datetime
    keys: Mapping[str, str] = field(default_factory=dict)
    """What opens the files of the release that was asked for, as the director gives it to this vehicle."""

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
        target = self.find(f"{ref.task}/{ref.release}/{patch_name(entry.path, base_sha256)}")
        signed = (target.custom or {}) if target is not None else {}
        return target if (signed.get("from"), signed.get("to")) == (base_sha256, entry.sha256) else None

    def find(self, path: str) -> TargetFile | None:
        """A target by its name; its task's role is fetched where it is new. Raises MetadataError, RetryLaterError."""
        with tuf_errors(MetadataError, self.now):
            return self.updater.get_targetinfo(path)

    def download(self, target: TargetFile, path: Path) -> None:
        """Fetch, verify and place a target; what is at `path` already and sound is not fetched again.

        Raises TrustError where the content is not what is signed, RetryLaterError, DiskFullError.
        """
        incoming = path.with_name(f".{path.name}.incoming")
        with tuf_errors(TrustError, self.now), disk.disk_errors(path):
            if self.updater.find_cached_target(target, str(path)) is not None:
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            # Never written in place: the old content may be shared with an installed version.
            self.updater.download_target(target, str(incoming))
            incoming.rename(path)

    def _find(self, path: str) -> TargetFile:
        target = self.find(path)
        if target is None:
            raise MetadataError(f"{path}: not among the signed targets")
        return target


def verify_provisioned(provisioned: Path, refs: Iterable[ReleaseRef]) -> None:
    """Check the releases of the provisioning folder against its own signed metadata, offline.

    Expiry does not matter here: a vehicle may stand for a year before its first start. Raises TrustError.
    """
    with tuf_errors(TrustError, datetime.now(UTC)):
        factory = Metadata[Root].from_bytes(provisioned_file(provisioned / "root.json"))
        root = Metadata[Root].from_bytes(provisioned_file(provisioned / "metadata" / "root.json"))
        factory.verify_delegate("root", factory)
        factory.verify_delegate("root", root)  # where it was renewed since: also by the keys that the vehicle is given
        root.verify_delegate("root", root)
        targets = Metadata[Targets].from_bytes(provisioned_file(provisioned / "metadata" / "targets.json"))
        root.verify_delegate("targets", targets)
        director = Metadata[Root].from_bytes(provisioned_file(provisioned / "director" / "root.json"))
        director.verify_delegate("root", director)
        for ref in refs:
            _verify_given(provisioned, targets, ref)


def _verify_given(provisioned: Path, targets: Metadata[Targets], ref: ReleaseRef) -> None:
    path = f"{ref.task}/{ref.release}/{MANIFEST_NAME}"
    found = targets.signed.targets.get(path)
    delegations = targets.signed.delegations
    for role, _ in delegations.get_roles_for_target(path) if delegations is not None and found is None else ():
        delegated = Metadata[Targets].from_bytes(provisioned_file(provisioned / "metadata" / f"{role}.json"))
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


def _provisioned_floor(provisioned: Path) -> Floor:
    """The versions of the metadata that the vehicle was given; of no role but root where it was given no more."""
    beginning = datetime.fromtimestamp(0, UTC)
    given = provisioned / "metadata"
    with tuf_errors(MetadataError, beginning):
        if not given.is_dir():
            return Floor(
                {"root": Metadata[Root].from_bytes(provisioned_file(provisioned / "root.json")).signed.version},
                beginning,
            )
        root = Metadata[Root].from_bytes(provisioned_file(given / "root.json")).signed
        timestamp = Metadata[Timestamp].from_bytes(provisioned_file(given / "timestamp.json")).signed
        snapshot = Metadata[Snapshot].from_bytes(provisioned_file(given / "snapshot.json")).signed
        return Floor(versions_of(root, timestamp, snapshot), beginning, vouching_keys(root))
