"""Starts drive and link, watches over them, and starts again whichever ends.

It keeps both ends of their pipe open, so that either may die without the other seeing more than silence. Nothing else
happens in this process: the less it does, the less can stop it. SIGHUP has the configuration looked at by a process of
its own, and starts both children anew where it is good.
"""

import contextlib
import ctypes
import logging
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from roadloop_agent.children import ChildState, beaten, exited, is_due, is_stuck, is_well, slept, started, stopped
from roadloop_agent.sdnotify import Notifier

_LOG = logging.getLogger(__name__)

STOP_S = {"drive": 1.5, "link": 3.5}
"""How long each may take to stop; together they are within the 5 s of a clean stop."""
CHECK_S = 60.0
"""How long looking at a new configuration may take."""
SLEPT_S = 5.0
"""A turn of the loop that took longer: the vehicle was suspended, or all processes were stopped."""
_PR_SET_PDEATHSIG = 1
_LOOP_S = 1.0
Command = Callable[[int], Sequence[str]]


@dataclass
class _Child:
    name: str
    command: Command
    pipe_fd: int
    state: ChildState
    process: "subprocess.Popen[bytes] | None" = None
    beat_fd: int = -1


class Supervisor:
    """Runs until SIGTERM or SIGINT."""

    def __init__(
        self,
        *,
        drive_command: Command,
        link_command: Command,
        check_command: Sequence[str],
        pipe_fds: tuple[int, int],
        environment: Mapping[str, str],
        notifier: Notifier,
        clock: Callable[[], float],
    ) -> None:
        """A child's command is made of the descriptor that it beats on. `check_command` says with its exit code
        whether the configuration as it is now can be run.

        `pipe_fds`: drive's and link's end of the pipe; each child inherits its own.
        """
        self._drive = _Child("drive", drive_command, pipe_fds[0], ChildState())
        self._link = _Child("link", link_command, pipe_fds[1], ChildState())
        self._check_command = check_command
        self._check: subprocess.Popen[bytes] | None = None
        self._check_until_s = 0.0
        self._environment = environment
        self._notifier = notifier
        self._clock = clock
        self._stopping = False
        self._reload_asked = False
        self._ready = False
        self._watchdog_due_s = 0.0
        self._turn_s = clock()

    def run(self) -> None:
        """Start, watch, restart; returns when both have stopped after a signal."""
        wake_r, wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_reload)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            while not self._stopping:
                self._notice_sleep()
                for child in (self._drive, self._link):
                    self._tend(child)
                self._tend_reload()
                self._notify()
                self._wait(wake_r)
        finally:
            self._notifier.notify(STOPPING="1")
            self._end_check()
            self._stop_both()

    def _on_stop(self, _number: int, _frame: object) -> None:
        self._stopping = True

    def _on_reload(self, _number: int, _frame: object) -> None:
        self._reload_asked = True

    def _notice_sleep(self) -> None:
        """CLOCK_MONOTONIC goes on while processes are stopped: without this all would look stuck afterwards."""
        now_s = self._clock()
        gap_s, self._turn_s = now_s - self._turn_s, now_s
        if gap_s < SLEPT_S:
            return
        _LOG.warning("nothing ran for %.0f s: suspended?", gap_s)
        for child in (self._drive, self._link):
            child.state = slept(child.state, gap_s)
        self._check_until_s += gap_s

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
                child.command(write_fd),
                env=self._environment,
                pass_fds=(child.pipe_fd, write_fd),
                stdin=subprocess.DEVNULL,
                process_group=0,
            )
        except OSError as error:
            # No memory or no process to be had: worth another try, and no reason to stop the other child.
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
        _forget(child)
        child.state = exited(child.state, now_s)

    # Reloading.

    def _tend_reload(self) -> None:
        if self._check is None:
            if self._reload_asked:
                self._begin_check()
            return
        code = self._check.poll()
        if code is None and self._clock() < self._check_until_s:
            return
        self._end_check()
        if code != 0:
            _LOG.error("the configuration is refused; the agent goes on with the one it has")
            self._notifier.notify(READY="1", STATUS="the last reload was refused: see the log")
            return
        _LOG.info("the configuration is good: drive and link start anew with it")
        self._stop_both()
        now_s = self._turn_s = self._clock()
        self._drive.state, self._link.state, self._ready = stopped(now_s), stopped(now_s), False

    def _begin_check(self) -> None:
        self._reload_asked = False
        self._notifier.notify(RELOADING="1", MONOTONIC_USEC=str(int(self._clock() * 1e6)))
        self._check_until_s = self._clock() + CHECK_S
        try:
            self._check = subprocess.Popen(
                self._check_command, env=self._environment, stdin=subprocess.DEVNULL, process_group=0
            )
        except OSError as error:
            _LOG.error("the configuration cannot be checked now: %s", error)
            self._notifier.notify(READY="1", STATUS="the last reload was refused: see the log")

    def _end_check(self) -> None:
        if self._check is not None:
            self._check.kill()
            self._check.wait()
            self._check = None

    # The loop.

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

    def _stop_both(self) -> None:
        """Drive first: what it still has goes to link, which writes it down before it ends."""
        for child in (self._drive, self._link):
            if child.process is not None:
                _stop(child.name, child.process)
                _forget(child)


def _stop(name: str, process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_S[name])
    except subprocess.TimeoutExpired:
        _LOG.error("%s does not stop: killed", name)
        process.kill()
        process.wait()


def _forget(child: _Child) -> None:
    os.close(child.beat_fd)
    child.process, child.beat_fd = None, -1


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process when its parent ends (Linux, prctl(2)); exits where it has ended already."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        sys.exit(1)


def _reason(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
