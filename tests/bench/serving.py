"""A cloud that serves files for a measurement: a real broker, the real fleet service, files of made bytes."""

import hashlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from roadloop_cloud.fleet.blocks import BlockServer
from roadloop_cloud.fleet.files import RepositoryFiles
from roadloop_cloud.fleet.service import FleetService
from roadloop_cloud.identity.authority import write_identity
from roadloop_cloud.mqtt import Publication
from roadloop_cloud.workspace import IdentityFiles
from roadloop_models.contract import channels
from roadloop_models.contract.channels import Channel
from roadloop_models.contract.messages import FileBlock, Message
from tests.fakes.live_cloud import WAIT_S, LiveCloud, wait_until


class ServingCloud:
    """A workspace with a broker and a fleet service; `sent` counts the blocks of targets by channel name."""

    def __init__(self, directory: Path, bytes_per_s: int = 4 * 1024 * 1024) -> None:
        """`bytes_per_s`: the pace of each vehicle; the default is that of a workspace."""
        self.cloud = LiveCloud(directory)
        self.sent = {channels.FILE.name: 0, channels.FLEET_FILE.name: 0}
        self._bytes_per_s = bytes_per_s

    @property
    def port(self) -> int:
        """The broker's."""
        return self.cloud.app.workspace.config.broker.port

    def add_file(self, name: str, size_bytes: int, seed: int) -> tuple[str, bytes]:
        """(path, content) of a new target of bytes that do not compress."""
        content = random.Random(seed).randbytes(size_bytes)
        path = f"targets/bench/1/{hashlib.sha256(content).hexdigest()}.{name}"
        file = self.cloud.app.workspace.repository / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return path, content

    def identity(self, vehicle: str) -> IdentityFiles:
        """A certificate of that name."""
        folder, authority = self.cloud.directory / "identities", self.cloud.app.authority
        files = IdentityFiles(authority.certificate_path, folder / f"{vehicle}.crt", folder / f"{vehicle}.key")
        folder.mkdir(exist_ok=True)
        write_identity(authority.issue_client(vehicle), files.certificate, files.key)
        return files

    @contextmanager
    def serving(self) -> Iterator["ServingCloud"]:
        """Broker and fleet service for the block."""
        app = self.cloud.app
        with self.cloud.broker():
            client = self.cloud.mqtt_client("cloud-fleet")
            publish = client.publish

            def counted(channel: Channel, vehicle: str, message: Message, **parts: str | int) -> Publication:
                if isinstance(message, FileBlock) and message.path.startswith("targets/"):
                    self.sent[channel.name] += 1
                return publish(channel, vehicle, message, **parts)

            client.publish = counted  # type: ignore[method-assign]
            blocks = BlockServer(RepositoryFiles(app.workspace.repository), lambda _vehicle: self._bytes_per_s)
            service = FleetService(
                client, app.database, app.rollouts, blocks, app.releases.renew_online, director=app.directors
            )
            stop = threading.Event()
            thread = threading.Thread(target=service.run, args=(stop,), daemon=True)
            client.start()
            thread.start()
            try:
                wait_until("the fleet service is connected", lambda: client.connected)
                yield self
            finally:
                stop.set()
                thread.join(WAIT_S)
                client.stop()
