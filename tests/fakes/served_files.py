"""The production file server over files in memory, in a thread, with its own certificate authority."""

import hashlib
import ssl
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from roadloop_agent.link.mqtt import tls_context
from roadloop_cloud.fleet.file_server import FileServer, ServerLimits
from roadloop_cloud.fleet.files import ServedFile
from roadloop_cloud.identity.authority import Authority, write_identity
from roadloop_cloud.identity.revocations import Revocations
from roadloop_cloud.workspace import IdentityFiles
from tests.fakes.live_cloud import WAIT_S, wait_until


@dataclass
class MemoryFiles:
    """Path -> content, as tests want it: also other than what was signed. `sizes`: what size is announced."""

    contents: dict[str, bytes] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def find(self, vehicle: str, path: str) -> ServedFile | None:
        self.asked.append((vehicle, path))
        content = self.contents.get(path)
        if content is None:
            return None
        size_bytes = self.sizes.get(path, len(content))
        return ServedFile(path, hashlib.sha256(content).hexdigest(), size_bytes, content)


class ServedFiles:
    """Serves while the block lasts."""

    def __init__(self, directory: Path, pace_bytes_per_s: int = 1 << 30, limits: ServerLimits | None = None) -> None:
        self.directory = directory
        self.files = MemoryFiles()
        self.authority = Authority(directory / "ca")
        (directory / "ca").mkdir(parents=True)
        self.authority.create("test CA")
        self._limits = limits or ServerLimits()
        revoked = Revocations(self.authority.revocations_path, time.monotonic, look_s=0.05)
        self._server = FileServer(self.files, lambda _vehicle: pace_bytes_per_s, revoked.contains, self._limits)
        self._stop = threading.Event()

    def identity(self, name: str, authority: Authority | None = None) -> IdentityFiles:
        """A client's certificate, by default of the fleet's CA."""
        folder = self.directory / "identities"
        files = IdentityFiles(self.authority.certificate_path, folder / f"{name}.crt", folder / f"{name}.key")
        if not files.certificate.exists():
            folder.mkdir(exist_ok=True)
            write_identity((authority or self.authority).issue_client(name), files.certificate, files.key)
        return files

    def client_tls(self, name: str) -> ssl.SSLContext:
        """The vehicle's own context."""
        identity = self.identity(name)
        return tls_context(identity.ca, identity.certificate, identity.key)

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server.port is not None
        return self._server.port

    def __enter__(self) -> "ServedFiles":
        identity = IdentityFiles(
            self.authority.certificate_path, self.directory / "server.crt", self.directory / "server.key"
        )
        self.authority.ensure_server("cloud-files", ["127.0.0.1"], identity.certificate, identity.key)
        arguments = ("127.0.0.1", 0, identity, self._stop)
        self._thread = threading.Thread(target=self._server.run, args=arguments, daemon=True)
        self._thread.start()
        wait_until("the file server listens", lambda: self._server.port is not None)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
