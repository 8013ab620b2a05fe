"""A real mosquitto on a port of the system's choice, with mutual TLS and the production access list."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

import pytest

from roadloop_cloud.broker import access_list, find_mosquitto
from roadloop_cloud.identity.authority import Authority, write_identity
from roadloop_models.contract.channels import MAX_MESSAGE_BYTES
from roadloop_models.errors import ConfigError

CLOUD = "cloud-test"
"""A name that may read and write everything: the cloud in one client."""
_START_S = 10.0


class MosquittoBroker:
    """Starts, stops, is killed and comes back on the same port; `with` stops it. Skips where there is no mosquitto."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
        self.directory = directory
        try:
            self._program = find_mosquitto()
        except ConfigError as error:
            pytest.skip(str(error))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._authority = Authority(directory / "ca")
        (directory / "ca").mkdir()
        self._authority.create("test CA")
        write_identity(
            self._authority.issue_server("broker", ["127.0.0.1"]), directory / "broker.crt", directory / "broker.key"
        )
        acl = f"{access_list()}\nuser {CLOUD}\ntopic readwrite roadloop/#\n"
        (directory / "acl").write_text(acl, encoding="utf-8")
        (directory / "acl").chmod(0o600)
        (directory / "data").mkdir()
        (directory / "mosquitto.conf").write_text(self._configuration(), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def ca(self) -> Path:
        """The certificate that both sides trust."""
        return self._authority.certificate_path

    def identity(self, name: str, folder: Path | None = None) -> tuple[Path, Path]:
        """(certificate, key) of that name, issued on first use."""
        folder = folder or self.directory / "identities"
        folder.mkdir(parents=True, exist_ok=True)
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        self._authority.ensure_client(name, certificate, key)
        return certificate, key

    def start(self) -> None:
        """Start it and wait until it listens."""
        environment = {**os.environ, **self._program.environment()}
        with (self.directory / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._program.path), "-c", str(self.directory / "mosquitto.conf")],
                stdout=log,
                stderr=log,
                env=environment,
            )
        until_s = time.monotonic() + _START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self._process.poll() is None, (self.directory / "broker.log").read_text()
                assert time.monotonic() < until_s, "mosquitto does not listen"
                time.sleep(0.02)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it; with SIGKILL nothing is saved."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(_START_S)
            self._process = None

    def forget(self) -> None:
        """Lose all that it had kept: sessions, queues and retained messages."""
        shutil.rmtree(self.directory / "data")
        (self.directory / "data").mkdir()

    def __enter__(self) -> "MosquittoBroker":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _configuration(self) -> str:
        folder = self.directory
        user = "user root\n" if os.geteuid() == 0 else ""
        return (
            f"{user}listener {self.port} 127.0.0.1\n"
            f"cafile {self.ca}\ncertfile {folder}/broker.crt\nkeyfile {folder}/broker.key\n"
            "require_certificate true\nuse_identity_as_username true\nuse_username_as_clientid true\n"
            f"allow_anonymous false\nacl_file {folder}/acl\nmax_packet_size {MAX_MESSAGE_BYTES + 1024}\n"
            f"persistence true\npersistence_location {folder}/data/\nlog_dest stderr\n"
        )
