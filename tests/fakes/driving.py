"""The real drive process of a provisioned vehicle, and this process in the place of link."""

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from roadloop_agent.app.store import open_store, provision
from roadloop_agent.config import load_config
from roadloop_agent.ipc import FromDrive, Pipe, Switch, Switched, encode_ipc
from roadloop_agent.socketpair import make_socketpair
from roadloop_agent.watch import child_command
from roadloop_models.bundle import Bundle
from roadloop_models.contract.messages import ReleaseRef
from tests.fakes.opaque_bundles import release_ref
from tests.fakes.repository import Repository, utc_now

WAIT_S = 30.0


class Driving:
    """Runs while the block lasts. `hear` gets every message of drive."""

    def __init__(self, directory: Path, bundles: dict[str, Bundle], profile: str) -> None:
        """`bundles`: slot -> the bundle that it starts with, as release 1."""
        repository = Repository(utc_now())
        refs = {slot: repository.add(bundle, 1) for slot, bundle in bundles.items()}
        directory.mkdir(parents=True)
        repository.provision(directory, {slot: (refs[slot], bundle.directory) for slot, bundle in bundles.items()})
        (directory / "vehicle.toml").write_text(
            '[vehicle]\nid = "van-1"\n[broker]\nhost = "127.0.0.1"\n', encoding="utf-8"
        )
        (directory / "profile.toml").write_text(profile, encoding="utf-8")
        self.config = load_config(directory / "vehicle.toml")
        provision(self.config)
        self.store = open_store(self.config)
        self.hear: Callable[[FromDrive], None] = lambda message: None
        self._process: subprocess.Popen[bytes] | None = None

    def install(self, slot: str, bundle: Bundle, release: int) -> ReleaseRef:
        """Another release, ready to be switched to."""
        ref = release_ref(bundle, release)
        self.store.install(slot, ref, bundle.directory)
        return ref

    def switch(self, slot: str, ref: ReleaseRef) -> None:
        """Have drive run an installed release; returns when it does. Raises AssertionError where it cannot."""
        directory = str(self.store.version_directory(ref))
        self.send(encode_ipc(Switch(slot=slot, ref=ref, bundle_dir=directory)))
        answered: list[Switched] = []
        before = self.hear

        def hear(message: FromDrive) -> None:
            before(message)
            if isinstance(message, Switched):
                answered.append(message)

        self.hear = hear
        self.listen(WAIT_S, lambda: bool(answered))
        self.hear = before
        assert answered and answered[0].ok and answered[0].ref == ref, answered

    def send(self, payload: bytes) -> None:
        """One encoded message to drive."""
        assert self._pipe.try_send(payload)

    def listen(self, seconds: float, enough: Callable[[], bool] = lambda: False) -> None:
        """Take what drive says for so long, or until it is enough."""
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0 and not enough():
            select.select([self._pipe], [], [], left_s)
            while (message := self._pipe.receive_from_drive()) is not None:
                self.hear(message)

    def __enter__(self) -> Self:
        drive_end, link_end = make_socketpair()
        self._pipe = Pipe(link_end)
        os.set_inheritable(drive_end.fileno(), True)
        command = [*child_command("drive", str(self.config.path)), "--pipe", str(drive_end.fileno())]
        with (self.config.directory / "drive.log").open("wb") as log:
            self._process = subprocess.Popen(command, pass_fds=[drive_end.fileno()], stdout=log, stderr=log)
        drive_end.close()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(WAIT_S)
        self._pipe.close()
