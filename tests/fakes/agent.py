"""A provisioned vehicle and its real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from roadloop_models.bundle import Bundle
from roadloop_models.contract.messages import ReleaseRef
from tests.fakes.broker import MosquittoBroker
from tests.fakes.profiles import sign_profile
from tests.fakes.repository import Repository

WAIT_S = 30.0
SIGN_PROFILE = sign_profile(50.0)


class RunningAgent:
    """The agent of a provisioning folder, in a process of its own while the block lasts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "vehicle.toml"
        self.process: subprocess.Popen[bytes] | None = None
        self.launcher: tuple[str, ...] = ()
        """What comes before the agent's own command line."""

    def start(self) -> None:
        """Run the agent in a process of its own; its output goes to agent.log."""
        with (self.directory / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.launcher, sys.executable, "-m", "roadloop_agent.cli", "run", "--config", str(self.config)],
                stdout=log,
                stderr=log,
            )

    def run_to_its_end(self) -> "subprocess.CompletedProcess[str]":
        """Run an agent that cannot start."""
        command = [sys.executable, "-m", "roadloop_agent.cli", "run", "--config", str(self.config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(15)
        self.process = None
        return code

    def child(self, role: str) -> int:
        """The process id of drive or link, once it runs."""
        assert self.process is not None
        until_s = time.monotonic() + WAIT_S
        while time.monotonic() < until_s:
            for pid in _children(self.process.pid):
                if role in _arguments(pid):
                    return pid
            assert self.process.poll() is None, self.log()
            time.sleep(0.02)
        raise AssertionError(f"{role} does not run: {self.log()}")

    def kill(self, role: str) -> None:
        """SIGKILL one child, and wait until the supervisor has started another."""
        before = self.child(role)
        os.kill(before, signal.SIGKILL)
        self.wait(f"{role} runs again", lambda: self.child(role) != before)

    def status(self) -> dict[str, Any]:
        """What `roadloop-agent status --json` prints; empty before link has written any."""
        done = subprocess.run(
            [sys.executable, "-m", "roadloop_agent.cli", "status", "--config", str(self.config), "--json"],
            capture_output=True,
            check=False,
        )
        state: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
        return state

    def wait(self, what: str, reached: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
        """Poll until it is so; fail the test, saying what did not come about, when time is up."""
        until_s = time.monotonic() + timeout_s
        while not reached():
            assert time.monotonic() < until_s, f"waited {timeout_s:.0f} s in vain: {what}\n{self.log()}"
            time.sleep(0.05)

    def log(self) -> str:
        """What the agent has said."""
        return (self.directory / "agent.log").read_text(encoding="utf-8", errors="replace")[-4000:]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()


class TestVehicle(RunningAgent):
    """A vehicle that is provisioned here, without the cloud's own code."""

    __test__ = False

    def __init__(
        self,
        directory: Path,
        vehicle: str,
        broker: MosquittoBroker,
        repository: Repository,
        bundles: dict[str, Bundle],
        profile: str = SIGN_PROFILE,
        more: str = "",
    ) -> None:
        """`bundles`: slot -> the bundle that it starts with, signed as release 1. `more`: lines for vehicle.toml."""
        super().__init__(directory)
        directory.mkdir(parents=True)
        self.refs: dict[str, ReleaseRef] = {slot: repository.add(bundle, 1) for slot, bundle in bundles.items()}
        repository.provision(directory, {slot: (self.refs[slot], bundles[slot].directory) for slot in bundles})
        certificate, key = broker.identity(vehicle, directory / "identity")
        self.config.write_text(
            f'[vehicle]\nid = "{vehicle}"\n[broker]\nhost = "127.0.0.1"\nport = {broker.port}\nca = "{broker.ca}"\n'
            f'certificate = "identity/{certificate.name}"\nkey = "identity/{key.name}"\n'
            "reconnect_min_s = 0.1\nreconnect_max_s = 1.0\n"
            f"[telemetry]\nbatch_samples = 50\nbatch_age_s = 0.5\n{more}",
            encoding="utf-8",
        )
        (directory / "profile.toml").write_text(profile, encoding="utf-8")


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text(encoding="ascii").split()] if path.exists() else []


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
    except OSError:
        return []
