"""Starts drive and link, watches over them, and starts again whichever ends.

It keeps both ends of their pipe open, so that either may die without the other seeing more than silence. Nothing else
happens in this process: the less it does, the less can stop it.
"""

import contextlib
import ctypes
import logging
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from roadloop_agent.sdnotify import Notifier
from roadloop_models.errors import RoadloopError

_LOG = logging.getLogger(__name__)

RESTART_FIRST_S = 0.2
RESTART_MAX_S = 30.0
PROVED_S = 60.0
"""A child that lived this long is started again without waiting."""
START_GRACE_S = 60.0
WELL_S = 5.0
"""Without a beat for so long a child is not well: systemd's watchdog is no longer fed."""
STUCK_S = 20.0
"""Without a beat for so long a child is killed; at its start it has the grace to load its models."""
STOP_S = {"drive": 1.5, "link": 3.5}
"""How long each may take to stop; together they are within the 5 s of a clean stop."""
_PR_SET_PDEATHSIG = 1
_LOOP_S = 1.0


@dataclass(frozen=True)
class ChildState:
    """What is known of one child. Times are monotonic; `beat_s` is None until its first beat."""

    running: bool = False
    started_s: float = 0.0
    beat_s: float | None = None
    failures: int = 0
    due_s: float = 0.0


def started(state: ChildState, now_s: float) -> ChildState:
    """It was started."""
    return replace(state, running=True, started_s=now_s, beat_s=None)


def beaten(state: ChildState, now_s: float) -> ChildState:
    """It gave a sign of life."""
    return replace(state, beat_s=now_s)


def exited(state: ChildState, now_s: float) -> ChildState:
    """It ended: when it is due again. Each end soon after the start doubles the wait."""
    failures = 0 if now_s - state.started_s >= PROVED_S else state.failures + 1
    wait_s = 0.0 if failures == 0 else min(RESTART_MAX_S, RESTART_FIRST_S * 2.0 ** (failures - 1))
    return replace(state, running=False, beat_s=None, failures=failures, due_s=now_s + wait_s)


def is_due(state: ChildState, now_s: float) -> bool:
    """Whether to start it now."""
    return not state.running and now_s >= state.due_s


def is_stuck(state: ChildState, now_s: float) -> bool:
    """Whether it runs and makes no progress."""
    if not state.running:
        return False
    if state.beat_s is None:
        return now_s - state.started_s > START_GRACE_S
    return now_s - state.beat_s > STUCK_S


def is_well(state: ChildState, now_s: float) -> bool:
    """Whether it runs and makes progress."""
    return state.running and state.beat_s is not None and now_s - state.beat_s <= WELL_S


@dataclass
class _Child:
    name: str
    command: Callable[[int], Sequence[str]]
    pipe_fd: int
    state: ChildState
    process: "subprocess.Popen[bytes] | None" = None
    beat_fd: int = -1


class Supervisor:
    """Runs until SIGTERM or SIGINT."""

    def __init__(
        self,
        *,
        drive_command: Callable[[int], Sequence[str]],
        link_command: Callable[[int], Sequence[str]],
        pipe_fds: tuple[int, int],
        notifier: Notifier,
        clock: Callable[[], float],
    ) -> None:
        """The commands are built anew for every start, from the descriptor that the child beats on.

        `pipe_fds`: drive's and link's end of the pipe; each child inherits its own.
        """
        self._drive = _Child("drive", drive_command, pipe_fds[0], ChildState())
        self._link = _Child("link", link_command, pipe_fds[1], ChildState())
        self._notifier = notifier
        self._clock = clock
        self._stopping = False
        self._ready = False
        self._watchdog_due_s = 0.0

    def run(self) -> None:
        """Start, watch, restart; returns when both have stopped after a signal."""
        wake_r, wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            while not self._stopping:
                for child in (self._drive, self._link):
                    self._tend(child)
                self._notify()
                self._wait(wake_r)
        finally:
            self._notifier.notify(STOPPING="1")
            # Drive first: what it still has goes to link, which writes it down before it ends.
            for child in (self._drive, self._link):
                self._stop(child)

    def _on_stop(self, number: int, _frame: object) -> None:
        self._stopping = True

    def _tend(self, child: _Child) -> None:
        now_s = self._clock()
        if child.process is not None and (code := child.process.poll()) is not None:
            self._bury(child, now_s, code)
        if is_stuck(child.state, now_s) and child.process is not None:
            _LOG.error("%s makes no progress: killed", child.name)
            child.process.kill()
            self._bury(child, now_s, child.process.wait())
        if is_due(child.state, now_s):
            self._start(child, now_s)

    def _start(self, child: _Child, now_s: float) -> None:
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(read_fd, False)
        child.state = started(child.state, now_s)
        try:
            # Its own process group: Ctrl-C is for the supervisor, which stops the children in order.
            child.process = subprocess.Popen(
                child.command(write_fd), pass_fds=(child.pipe_fd, write_fd), stdin=subprocess.DEVNULL, process_group=0
            )
        except (RoadloopError, OSError) as error:
            # A full disk (the boot counter) or no memory: worth another try, and no reason to stop the other child.
            _LOG.error("%s cannot be started: %s", child.name, error)
            os.close(read_fd)
            child.state = exited(child.state, now_s)
            return
        finally:
            os.close(write_fd)
        child.beat_fd = read_fd
        _LOG.info("%s started (pid %d)", child.name, child.process.pid)

    def _bury(self, child: _Child, now_s: float, code: int) -> None:
        _LOG.error("%s ended (%s)", child.name, _reason(code))
        os.close(child.beat_fd)
        child.process, child.beat_fd = None, -1
        child.state = exited(child.state, now_s)

    def _wait(self, wake_fd: int) -> None:
        children = {child.beat_fd: child for child in (self._drive, self._link) if child.beat_fd >= 0}
        now_s = self._clock()
        due_s = [child.state.due_s - now_s for child in (self._drive, self._link) if not child.state.running]
        readable, _, _ = select.select([wake_fd, *children], [], [], max(0.0, min([_LOOP_S, *due_s])))
        for fd in readable:
            with contextlib.suppress(BlockingIOError):
                beats = os.read(fd, 4096)
                if fd in children and beats:
                    children[fd].state = beaten(children[fd].state, self._clock())
                elif fd in children:
                    # End of file: it is dying. Its exit status is a moment away, this select would not wait for it.
                    select.select([wake_fd], [], [], 0.05)

    def _notify(self) -> None:
        now_s = self._clock()
        both_well = is_well(self._drive.state, now_s) and is_well(self._link.state, now_s)
        if both_well and not self._ready:
            self._ready = True
            self._notifier.notify(READY="1", STATUS="drive and link are running")
        if both_well and self._notifier.watchdog_s is not None and now_s >= self._watchdog_due_s:
            self._watchdog_due_s = now_s + self._notifier.watchdog_s
            self._notifier.notify(WATCHDOG="1")

    def _stop(self, child: _Child) -> None:
        if child.process is None:
            return
        child.process.terminate()
        try:
            child.process.wait(STOP_S[child.name])
        except subprocess.TimeoutExpired:
            _LOG.error("%s does not stop: killed", child.name)
            child.process.kill()
            child.process.wait()


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process when its parent ends (Linux, prctl(2)); exits where it has ended already."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        sys.exit(1)


def _reason(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
