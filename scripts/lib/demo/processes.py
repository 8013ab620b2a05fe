"""Processes of the demo: commands that answer with JSON, and services that run until they are stopped."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

BIN = Path(sys.executable).parent
STOP_TIMEOUT_S = 20.0
Found = TypeVar("Found")


class DemoError(Exception):
    """The demo cannot go on; the message says at which command and why."""


def run_json(program: str, *arguments: str | Path) -> Any:
    """Run one command to its end with `--json` and return what it printed. Raises DemoError with its error text."""
    command = [str(BIN / program), *map(str, arguments), "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise DemoError(f"{' '.join(command)}\nexit code {done.returncode}\n{done.stderr[-3000:]}{done.stdout[-1000:]}")
    return json.loads(done.stdout)


class Service:
    """A program that runs until it is stopped, in its own process group, with its output in a log file."""

    def __init__(self, log: Path, *command: str | Path) -> None:
        self._command = [str(BIN / command[0]), *map(str, command[1:])]
        self._log = log
        self.process = self._start()

    def restart(self) -> None:
        """Start it again after it ended."""
        self.process = self._start()

    def stop(self) -> None:
        """Ask it to end, and make sure that it and its children have."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_TIMEOUT_S)
        self.kill()

    def kill(self) -> None:
        """SIGKILL for the whole process group, as a power cut would have it."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def check(self) -> None:
        """Raise DemoError with the end of its log where it has ended by itself."""
        if self.process.poll() is not None:
            tail = self._log.read_text(errors="replace")[-3000:] if self._log.exists() else ""
            raise DemoError(
                f"{' '.join(self._command)} ended with {self.process.returncode}; {self._log} says:\n{tail}"
            )

    def _start(self) -> "subprocess.Popen[bytes]":
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )


def wait_for(what: str, reached: Callable[[], Found], timeout_s: float, every_s: float = 0.25) -> Found:
    """Poll until something has come about; what it is. Raises DemoError, naming it, when time is up."""
    deadline_s = time.monotonic() + timeout_s
    while not (found := reached()):
        if time.monotonic() > deadline_s:
            raise DemoError(f"waited {timeout_s:.0f} s in vain: {what}")
        time.sleep(every_s)
    return found


def tls_version(port: int, identity: Path) -> str | None:
    """Which TLS the broker speaks with a vehicle's certificate, from a handshake; None where it speaks none."""
    context = ssl.create_default_context(cafile=str(identity / "ca.crt"))
    context.load_cert_chain(identity / "vehicle.crt", identity / "vehicle.key")
    with socket.create_connection(("127.0.0.1", port), 5) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped:
                return wrapped.version()
        except ssl.SSLError:
            return None
