"""A workspace's keys and a vehicle that trusts them: the cloud's repository and a Trust, without a network."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from securesystemslib.signer import Signer
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata, MetaFile, Snapshot, TargetFile, Timestamp

from roadloop_agent.update.director import Director
from roadloop_agent.update.trust import Trust, verify_provisioned
from roadloop_agent.update.trusted_time import TrustedTime
from roadloop_cloud.files import write_atomic
from roadloop_cloud.registry.ceremonies import Ceremonies
from roadloop_cloud.registry.director import Directors
from roadloop_cloud.registry.director_keys import DirectorKeys
from roadloop_cloud.registry.releases import release_ref
from roadloop_models.bundle import MANIFEST_NAME
from roadloop_models.contract.messages import ReleaseRef
from tests.fakes.opaque_bundles import opaque_bundle
from tests.fakes.registry import FolderFetcher, Registry

OTHER_TASK = "traffic-speed"


class KeyRig:
    """See the module. `versions` counts the bundles that were made, `later` is how much later it is for ceremonies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "ws").mkdir(parents=True)
        self.registry = Registry(folder / "ws").create()
        self.repository = self.registry.repository
        self.later = timedelta()
        self.ceremonies = Ceremonies(
            self.repository, self.registry.offline, self.registry.online, lambda: datetime.now(UTC) + self.later
        )
        self.director_keys = DirectorKeys(
            self.registry.directors,
            self.registry.offline,
            self.registry.online,
            lambda: datetime.now(UTC) + self.later,
        )
        self.versions = 0

    def publish(self, task: str, request: Path | None = None) -> ReleaseRef:
        """Register the next bundle of a task, and sign it as a release."""
        self.versions += 1
        version = f"v{self.versions}"
        bundle = opaque_bundle(self.folder / f"{task}-{version}", version, 500, task=task)
        self.registry.models.register(bundle.directory)
        return release_ref(self.registry.releases.publish(task, version, request=request))

    def vehicle(self, name: str, tasks: Iterable[str]) -> "TrustingVehicle":
        """A vehicle that is provisioned now."""
        folder = self.folder / name
        given = {**self.repository.trust_files(tasks), **self.registry.directors.trust_files()}
        for relative, content in given.items():
            write_atomic(folder / "trust" / relative, content)
        return TrustingVehicle(folder, self.folder / "ws" / "repository")

    def director(self, name: str) -> Director:
        """A vehicle's client of the director, with its memory of before where there was one."""
        folder = self.folder / f"{name}-director"
        for relative, content in self.registry.directors.trust_files().items():
            if not (folder / relative).exists():
                write_atomic(folder / relative, content)
        wire = DirectorWire(self.registry.directors, name)
        return Director(folder / "state", folder, name, wire, TrustedTime(lambda: datetime.now(UTC), lambda: 0.0))

    def forge(self, signers: Iterable[Signer], timestamp: int, snapshot: int, **tasks: int) -> None:
        """What somebody with keys of the online roles, and the repository's disk, can put there."""
        metadata = self.folder / "ws" / "repository" / "metadata"
        expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
        current = Metadata[Timestamp].from_bytes((metadata / "timestamp.json").read_bytes()).signed
        newest = (
            Metadata[Snapshot]
            .from_bytes((metadata / f"{current.snapshot_meta.version}.snapshot.json").read_bytes())
            .signed
        )
        meta = {**newest.meta, **{f"{task}.json": MetaFile(version) for task, version in tasks.items()}}
        forged: tuple[Metadata[Snapshot], Metadata[Timestamp]] = (
            Metadata(Snapshot(version=snapshot, expires=expires, meta=meta)),
            Metadata(Timestamp(version=timestamp, expires=expires, snapshot_meta=MetaFile(snapshot))),
        )
        for signer in signers:
            for made in forged:
                made.sign(signer, append=True)
        write_atomic(metadata / f"{snapshot}.snapshot.json", forged[0].to_bytes())
        write_atomic(metadata / "timestamp.json", forged[1].to_bytes())


class TrustingVehicle:
    """A vehicle's trust in the image repository."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder = folder
        self.now = datetime.now(UTC)
        self.fetcher = CountingFetcher(repository)
        self.trust = Trust(folder / "state", folder / "trust", self.fetcher, lambda: self.now)

    def finds(self, ref: ReleaseRef) -> TargetFile:
        """Refresh, and find a release. Raises MetadataError, TrustError, RetryLaterError."""
        return self.trust.refresh().manifest(ref)

    def verify(self, ref: ReleaseRef) -> None:
        """Check what was provisioned."""
        verify_provisioned(self.folder / "trust", [ref])

    def forget(self) -> None:
        """A power cut empties the client's files; what is written durably stays."""
        for path in (self.folder / "state" / "metadata").glob("*.json"):
            if path.name != "root.json":
                path.write_bytes(b"")


class DirectorWire:
    """Asks the director as one vehicle."""

    def __init__(self, directors: Directors, vehicle: str) -> None:
        self._directors, self._vehicle = directors, vehicle

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """A metadata file."""
        content = self._directors.read(self._vehicle, url.removeprefix("director/"))
        if content is None:
            raise DownloadHTTPError(url, 404)
        return content

    @contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[BinaryIO]:
        """There are none."""
        raise AssertionError("the director has no files")
        yield


class CountingFetcher:
    """Reads the repository's metadata from disk, and remembers what was asked for."""

    def __init__(self, root: Path) -> None:
        self._folder = FolderFetcher(root)
        self.asked: list[str] = []

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """A metadata file."""
        self.asked.append(url)
        return self._folder.download_bytes(url, max_length)

    @contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[BinaryIO]:
        """Nothing is downloaded here but metadata."""
        raise AssertionError("only metadata is asked for")
        yield


def manifest_name(ref: ReleaseRef) -> str:
    """The target of a release's manifest."""
    return f"{ref.task}/{ref.release}/{MANIFEST_NAME}"
