"""Keeps child processes running: starts them, restarts what ended with growing pauses, stops all of them cleanly."""

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from roadloop_cloud.files import write_atomic

RESTART_MIN_S = 0.5
RESTART_MAX_S = 30.0
STABLE_AFTER_S = 60.0
"""A child that ran for so long has earned a quick restart again."""

LOG_BYTES = 16 * 1024 * 1024
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class ChildSpec:
    """A program to keep running; what it prints goes to `log`."""

    name: str
    arguments: Sequence[str]
    directory: Path
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    serves_others: bool = False
    """Stopped only after all that do not."""


class Process(Protocol):
    """What is needed of a running child; `subprocess.Popen` is one."""

    pid: int

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        ...

    def send_signal(self, number: int, /) -> None:
        """Send a signal; nothing happens where it ended."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises subprocess.TimeoutExpired."""
        ...


@dataclass
class Child:
    """One child: running where `process` is set, else due at `start_at_s`."""

    spec: ChildSpec
    process: Process | None = None
    start_at_s: float = 0.0
    started_s: float = 0.0
    pause_s: float = RESTART_MIN_S
    restarts: int = 0
    last_exit: int | None = None

    @property
    def state(self) -> str:
        """For people: running, or how it ended and that it comes again."""
        if self.process is not None:
            return "running" if not self.restarts else f"running (restarted {self.restarts}x)"
        return "starting" if self.last_exit is None else f"ended with {self.last_exit}, restarting"


class Supervisor:
    """Watches children; the owner calls `poll` a few times a second."""

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        spawn: Callable[[ChildSpec], Process] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is started before the first `poll`."""
        self._spawn = spawn or spawn_child
        self._clock = clock
        self.children = [Child(spec) for spec in specs]

    def poll(self) -> None:
        """Start what is due, notice what ended."""
        now_s = self._clock()
        for child in self.children:
            if child.process is not None and (status := child.process.poll()) is not None:
                _ended(child, status, now_s)
            if child.process is None and child.start_at_s <= now_s:
                child.process = self._spawn(child.spec)
                child.started_s = now_s

    def stop(self, timeout_s: float = 10.0) -> None:
        """SIGTERM, and SIGKILL to what still runs after the time; those that serve others come last."""
        self._stop([child for child in self.children if not child.spec.serves_others], timeout_s)
        self._stop([child for child in self.children if child.spec.serves_others], timeout_s)

    def _stop(self, children: Sequence[Child], timeout_s: float) -> None:
        running = [child.process for child in children if child.process is not None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        until_s = self._clock() + timeout_s
        for process in running:
            try:
                process.wait(timeout=max(0.0, until_s - self._clock()))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
        for child in children:
            child.process = None


def spawn_child(spec: ChildSpec) -> Process:
    """Start one program, its output appended to its log. It gets SIGTERM when its parent dies, however it dies."""
    spec.log.parent.mkdir(parents=True, exist_ok=True)
    if spec.log.exists() and spec.log.stat().st_size > LOG_BYTES:
        spec.log.replace(spec.log.with_suffix(".log.1"))
    with spec.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", __spec__.name, str(os.getpid()), *spec.arguments],
            cwd=spec.directory,
            env={**os.environ, **spec.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Its own session: Ctrl-C on the terminal reaches only the supervisor, which stops the children in order.
            start_new_session=True,
        )
    write_atomic(spec.log.with_suffix(".pid"), f"{process.pid}\n".encode())
    return process


def _ended(child: Child, status: int, now_s: float) -> None:
    if now_s - child.started_s >= STABLE_AFTER_S:
        child.pause_s = RESTART_MIN_S
    child.process = None
    child.last_exit = status
    child.restarts += 1
    child.start_at_s = now_s + child.pause_s
    child.pause_s = min(child.pause_s * 2, RESTART_MAX_S)


def become(parent: int, arguments: Sequence[str]) -> None:
    """Turn this process into another program, which gets SIGTERM when its parent dies.

    Done here, in a fresh process, because code between fork and exec of a process with threads may deadlock.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before it could be watched
        sys.exit(1)
    allow_descriptors()
    os.execvp(arguments[0], list(arguments))


def allow_descriptors() -> None:
    """Raise the soft limit of open files to the hard one, for this process and what it becomes.

    Every vehicle is a connection, and the usual soft limit is 1024.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2:])
