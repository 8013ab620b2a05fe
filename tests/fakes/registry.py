"""A registry in a folder, and a client of its repository as vehicles have one, without a network."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import TargetFile
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from roadloop_cloud.registry.director import DIRECTOR_OFFLINE, DIRECTOR_ONLINE, Directors, ManifestSizes
from roadloop_cloud.registry.keys import OFFLINE_ROLES, ONLINE_ROLES, KeyFolder
from roadloop_cloud.registry.models import ModelRegistry
from roadloop_cloud.registry.releases import Releases
from roadloop_cloud.registry.repository import ImageRepository
from roadloop_cloud.registry.sealing import SealedReleases
from roadloop_cloud.store.database import Database
from roadloop_cloud.store.fleet_tables import Release
from tests.fakes.cloud import fresh_database
from tests.fakes.opaque_bundles import TASK, opaque_bundle


class FolderFetcher(FetcherInterface):
    """Reads the repository from disk, as if it were a server."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = self.root / url
        if not path.is_file():
            raise DownloadHTTPError(f"{url}: not there", 404)
        yield path.read_bytes()


class Client:
    """A vehicle's memory of one repository; every `targets` call is a new refresh."""

    def __init__(self, repository: Path, memory: Path) -> None:
        self.repository, self.memory = repository, memory
        memory.mkdir(exist_ok=True)
        self.root = (repository / "metadata" / "1.root.json").read_bytes()

    def updater(self) -> Updater:
        made = Updater(
            str(self.memory),
            "metadata/",
            str(self.memory),
            "targets/",
            fetcher=FolderFetcher(self.repository),
            bootstrap=self.root,
        )
        made.refresh()
        return made

    def download(self, name: str) -> bytes:
        updater = self.updater()
        target = updater.get_targetinfo(name)
        assert isinstance(target, TargetFile), f"{name} is not signed"
        return Path(updater.download_target(target)).read_bytes()

    def complete(self, prefix: str, names: tuple[str, ...]) -> int:
        """How many of the files are signed; raises where one of those cannot be fetched."""
        updater = self.updater()
        targets = [updater.get_targetinfo(f"{prefix}/{name}") for name in names]
        return sum(bool(updater.download_target(target)) for target in targets if target is not None)

    def signs(self, name: str) -> bool:
        return self.updater().get_targetinfo(name) is not None


class Registry:
    """A workspace's registry in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database = Database(f"sqlite:///{root / 'state.sqlite'}")
        self.models = ModelRegistry(self.database, root / "models")
        self.repository = ImageRepository(root / "repository")
        self.offline = KeyFolder(root / "keys" / "offline", OFFLINE_ROLES)
        self.online = KeyFolder(root / "keys" / "online", ONLINE_ROLES)
        self.public_keys: dict[str, bytes] = {}
        self.sealing = SealedReleases(root / "sealed", root / "keys" / "content", self.public_keys.get)
        self.releases = Releases(
            self.database, self.models, self.repository, self.offline, self.online, sealing=self.sealing
        )
        director_keys = KeyFolder(root / "keys" / "online", DIRECTOR_ONLINE)
        self.directors = Directors(root / "director", director_keys.at_hand, ManifestSizes(root / "repository"))

    def create(self) -> "Registry":
        """An empty database, keys, and a signed repository without targets."""
        fresh_database(self.root).close()
        for name, content in _empty_repository().items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o600)
        return self


@cache
def _empty_repository() -> dict[str, bytes]:
    """Path -> content; made once, since each of its files is synced to disk."""
    with TemporaryDirectory() as directory:
        root = Path(directory)
        registry = Registry(root)
        registry.releases.create_repository()
        KeyFolder(root / "keys" / "online", DIRECTOR_ONLINE).create()
        offline = KeyFolder(root / "keys" / "offline", DIRECTOR_OFFLINE)
        offline.create()
        registry.directors.create(offline.signers())
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def published(registry: Registry, directory: Path, version: str) -> Release:
    registry.models.register(opaque_bundle(directory / version, version).directory)
    return registry.releases.publish(TASK, version)
