"""A workspace: the folder that holds all of one fleet service, and where everything lies in it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from roadloop_cloud.config import CONFIG_NAME, Config
from roadloop_models.errors import ConfigError
from roadloop_models.settings import read_settings


@dataclass(frozen=True)
class IdentityFiles:
    """A certificate with its key, and the CA that the other side must have."""

    ca: Path
    certificate: Path
    key: Path


class Workspace:
    """Paths of a workspace; reading and writing them is the business of the services."""

    def __init__(self, root: Path, config: Config) -> None:
        """Describe the workspace at `root`; nothing is read."""
        self.root = root
        self.config = config

    @classmethod
    def open(cls, root: Path) -> "Workspace":
        """Read the configuration of an existing workspace. Raises ConfigError where there is none."""
        root = root.resolve()
        if not (root / CONFIG_NAME).is_file():
            raise ConfigError(f"{root}: no {CONFIG_NAME} there, so it is no workspace; make one with 'roadloop init'")
        return cls(root, read_settings(root / CONFIG_NAME, Config))

    @property
    def ca(self) -> Path:
        """The certificate authority: its key, certificate and revocation list."""
        return self.root / "ca"

    @property
    def broker(self) -> Path:
        """Configuration, certificates and persistence of the broker."""
        return self.root / "broker"

    @property
    def identities(self) -> Path:
        """Certificates of the cloud's own processes."""
        return self.root / "identities"

    @property
    def offline_keys(self) -> Path:
        """Keys of the TUF roles root and targets."""
        return self.root / "keys" / "offline"

    @property
    def online_keys(self) -> Path:
        """Keys of the TUF roles snapshot and timestamp."""
        return self.root / "keys" / "online"

    @property
    def operators(self) -> Path:
        """Public keys of the people whose approval counts."""
        return self.root / "operators"

    @property
    def repository(self) -> Path:
        """The TUF image repository: metadata/ and targets/."""
        return self.root / "repository"

    @property
    def director(self) -> Path:
        """What each vehicle is told to run: root/ and vehicles/."""
        return self.root / "director"

    @property
    def sealed(self) -> Path:
        """What is published of sealed releases, as <task>/<release>/."""
        return self.root / "sealed"

    @property
    def content_keys(self) -> Path:
        """The content keys of sealed releases."""
        return self.root / "keys" / "content"

    @property
    def models(self) -> Path:
        """Bundles, as <task>/<version>/."""
        return self.root / "models"

    @property
    def evaluations(self) -> Path:
        """What was seen of models, as <task>/<version>/."""
        return self.root / "evaluations"

    @property
    def blobs(self) -> Path:
        """Captured items by their SHA-256."""
        return self.root / "blobs"

    @property
    def snapshots(self) -> Path:
        """Training sets by their SHA-256."""
        return self.root / "snapshots"

    @property
    def work(self) -> Path:
        """What jobs have made so far; each job removes its own folder at its end."""
        return self.root / "work"

    @property
    def run(self) -> Path:
        """Logs of the running processes."""
        return self.root / "run"

    @property
    def telemetry(self) -> str:
        """Where the Delta tables are: a local path or a URL."""
        configured = self.config.telemetry.delta_dir
        return configured if "://" in configured else str(self.root / configured)

    @cached_property
    def database_url(self) -> str:
        """The database's URL, with a relative SQLite file made absolute."""
        try:
            url = make_url(self.config.database.url)
        except ArgumentError as error:
            raise ConfigError(f"{self.root / CONFIG_NAME}: [database] url: {error}") from error
        if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
            url = url.set(database=str(self.root / str(url.database)))
        return url.render_as_string(hide_password=False)

    def model(self, task: str, version: str) -> Path:
        """The directory of one bundle."""
        return self.models / task / version

    def blob(self, sha256: str) -> Path:
        """The file of one captured item."""
        return self.blobs / sha256[:2] / sha256

    def identity(self, name: str) -> IdentityFiles:
        """The identity of one cloud process, for example `cloud-fleet`."""
        return IdentityFiles(
            ca=self.ca / "ca.crt",
            certificate=self.identities / f"{name}.crt",
            key=self.identities / f"{name}.key",
        )
