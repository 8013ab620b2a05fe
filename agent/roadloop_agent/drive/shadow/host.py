"""Drive's end of a shadow: a thread that hands frames to the shadow's process and adds up what it answers.

The slot's thread leaves what the incumbent was given in a mailbox for one and goes on; it never waits, and while the
shadow is busy, paused or beyond its budget the frame is skipped and counted.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from roadloop_agent.drive.shadow.budget import Budget
from roadloop_agent.drive.shadow.sums import Sums
from roadloop_agent.drive.shadow.wire import Compared, Failed, Ready, Seen, receive_answer, send_case
from roadloop_agent.ipc import ShadowSums
from roadloop_models.contract.messages import ErrorInfo, ReleaseRef
from roadloop_models.errors import FailedError, LatencyError, MessageError

_LOG = logging.getLogger(__name__)
LOAD_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 30.0
"""Both models for one frame, at the lowest priority on a busy machine: one that needs longer hangs."""
TRIES = 20
"""So many frames are tried before a candidate that fails on more than half of them is given up."""
STARTS = 3
"""How often the process is started again when something else killed it: memory was short, or a person did."""
AGAIN_S = 5.0
PROVED_S = 60.0
"""A process that lived this long begins with a clean record."""
_WAIT_S = 0.5
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Installed:
    """A release, and the directory of its bundle."""

    ref: ReleaseRef
    directory: Path


class Process(Protocol):
    """The shadow's process."""

    @property
    def pid(self) -> int:
        """Its id."""

    def kill(self) -> None:
        """End it at once."""

    def wait(self) -> int:
        """Its exit code; negative where a signal ended it."""


Spawn = Callable[[Path, Path], tuple[Process, socket.socket]]
"""(candidate's, incumbent's directory) -> the process, and this end of its socket. Raises OSError."""


def spawner(variant: str, providers: Sequence[str], sealing_key: Path) -> Spawn:
    """What starts the process of a shadow for a slot that runs this variant; the key opens what is sealed."""

    def spawn(candidate: Path, incumbent: Path) -> tuple[Process, socket.socket]:
        ours, theirs = socket.socketpair()
        arguments = [str(theirs.fileno()), str(os.getpid()), variant, str(candidate), str(incumbent)]
        command = [sys.executable, "-m", "roadloop_agent.drive.shadow.child", *arguments, ",".join(providers)]
        command.append(str(sealing_key))
        with theirs:
            try:
                return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),)), ours
            except OSError:
                ours.close()
                raise

    return spawn


class RefusedError(Exception):
    """The candidate is at fault; `info` says how."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.info = ErrorInfo(code=code, detail=detail[:500])


class Shadow:
    """One candidate beside one incumbent, until `stop`. The main thread makes it, reads `said` and sets `paused`."""

    def __init__(
        self,
        *,
        slot: str,
        candidate: Installed,
        incumbent: Installed,
        max_cpu_share: float,
        spawn: Spawn,
        clock: Callable[[], float],
        told: Callable[[int, bool], None] | None = None,
    ) -> None:
        """`told` hears of each frame, by its number, whether the candidate decided otherwise."""
        self.candidate = candidate
        self.incumbent = incumbent
        self.paused = False
        """Whether the vehicle is too hot, or too busy, for what is not needed."""
        self._slot = slot
        self._spawn = spawn
        self._clock = clock
        self._run_id = uuid.uuid4().hex
        self._budget = Budget(max_cpu_share, clock())
        self._sums = Sums()
        self._lock = threading.Lock()
        self._given = threading.Condition()
        self._told = told
        self._seen: Seen | None = None
        self._number = -1
        self._hungry = False
        self._skipped = 0
        self._loaded = False
        self._refused: ErrorInfo | None = None
        self._stopping = threading.Event()
        self._process: Process | None = None
        self._thread = threading.Thread(target=self._run, name=f"shadow-{slot}", daemon=True)

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def stop(self) -> None:
        """End it without waiting for it."""
        self._stopping.set()
        with self._given:
            self._given.notify()
        process = self._process
        if process is not None:
            process.kill()

    @property
    def pid(self) -> int | None:
        """Of its process; None where there is none."""
        process = self._process
        return None if process is None or not self.is_alive else process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it goes on; where not, its process is gone as well."""
        return self._thread.is_alive()

    def offer(self, seen: Seen, number: int = -1) -> None:
        """Called by the slot's thread for every frame that the incumbent decided about; `number` is the frame's."""
        if not self._hungry or self.paused:
            self._skipped += self._loaded
            return
        with self._given:
            self._hungry = False
            self._seen, self._number = seen, number
            self._given.notify()

    def said(self, boot: int) -> ShadowSums:
        """Everything so far, for link."""
        with self._lock:
            report = self._sums.report(self.candidate.ref, self._skipped)
        report = msgspec.structs.replace(report, state=self._state(), error=self._refused)
        return ShadowSums(boot=boot, slot=self._slot, run=self._run_id, incumbent=self.incumbent.ref, report=report)

    def _state(self) -> Literal["loading", "running", "paused", "refused"]:
        if self._refused is not None:
            return "refused"
        if not self._loaded:
            return "loading"
        return "paused" if self.paused else "running"

    # The shadow's own thread.

    def _run(self) -> None:
        starts = 0
        while not self._stopping.is_set():
            starts, started_s = starts + 1, self._clock()
            try:
                killed_by = self._attend()
            except RefusedError as error:
                self._refuse(error.info)
                return
            except Exception as error:  # noqa: BLE001 (a fault of the agent ends the shadow and nothing else)
                _LOG.exception("slot %s: its shadow", self._slot)
                self._refuse(ErrorInfo(code=FailedError.code, detail=f"{type(error).__name__}: {error}"[:500]))
                return
            if self._stopping.is_set():
                return
            if self._clock() - started_s >= PROVED_S:
                starts = 0
            if starts == STARTS:
                detail = f"the shadow's process was ended {starts} times from outside, at last {killed_by}"
                self._refuse(ErrorInfo(code=FailedError.code, detail=detail))
                return
            _LOG.warning("slot %s: the shadow's process was ended %s; starting it again", self._slot, killed_by)
            self._stopping.wait(AGAIN_S)

    def _refuse(self, error: ErrorInfo) -> None:
        if not self._stopping.is_set():
            _LOG.error("slot %s: %s leaves the shadow: %s", self._slot, self.candidate.ref.version, error.detail)
            self._refused = error

    def _attend(self) -> str:
        """Start the process and feed it until it ends; how it was ended from outside. Raises RefusedError."""
        try:
            process, sock = self._spawn(self.candidate.directory, self.incumbent.directory)
        except OSError as error:
            return f"before it started: {error}"
        self._process = process
        if self._stopping.is_set():  # asked for before there was a process to end
            process.kill()
        try:
            with sock:
                self._feed(sock)
        except TimeoutError:
            what = "did not answer" if self._loaded else "did not load"
            limit_s = ANSWER_TIMEOUT_S if self._loaded else LOAD_TIMEOUT_S
            raise RefusedError(LatencyError.code, f"the candidate {what} within {limit_s:.0f} s") from None
        except MessageError as error:
            raise RefusedError(error.code, str(error)) from error
        except OSError as error:
            _LOG.warning("slot %s: its shadow: %s", self._slot, error)
        finally:
            self._loaded = self._hungry = False
            process.kill()
            code = process.wait()
        return ended(code)

    def _feed(self, sock: socket.socket) -> None:
        sock.settimeout(LOAD_TIMEOUT_S)
        answer = receive_answer(sock)
        if isinstance(answer, Failed):
            raise RefusedError(answer.code, answer.detail)
        if not isinstance(answer, Ready):
            return
        self._loaded = True
        sock.settimeout(ANSWER_TIMEOUT_S)
        while not self._stopping.is_set():
            seen = self._next()
            if seen is None:
                continue
            send_case(sock, seen)
            answer = receive_answer(sock)
            if answer is None:
                return
            if not isinstance(answer, Ready):
                self._budget.spend(answer.cpu_s)
            self._add(answer)

    def _next(self) -> Seen | None:
        """The next frame, as soon as there is credit for it; None where it is time to look around."""
        if not self._budget.allows(self._clock()):
            self._stopping.wait(self._budget.wait_s)
            return None
        with self._given:
            self._hungry = True
            self._given.wait_for(lambda: self._seen is not None or self._stopping.is_set(), _WAIT_S)
            self._hungry = False
            seen, self._seen = self._seen, None
            return seen

    def _add(self, answer: object) -> None:
        with self._lock:
            sums = self._sums
            if isinstance(answer, Compared):
                sums.compare(answer.agrees, answer.latency_us, answer.incumbent_latency_us)
                if answer.confidence_delta is not None:
                    sums.compare_confidence(answer.confidence_delta)
            elif isinstance(answer, Failed):
                sums.errors += 1
        if isinstance(answer, Compared) and self._told is not None:
            self._told(self._number, not answer.agrees)
        if isinstance(answer, Failed) and sums.errors >= TRIES and sums.errors > sums.frames:
            share = f"{sums.errors} of {sums.errors + sums.frames} frames"
            raise RefusedError(answer.code, f"it fails on {share}: {answer.detail}")


def ended(code: int) -> str:
    """How something else ended the process. Raises RefusedError where it was the candidate."""
    if code >= 0:
        raise RefusedError(FailedError.code, f"the shadow's process ended with exit code {code}")
    name = signal.Signals(-code).name
    if -code not in _FROM_OUTSIDE:
        raise RefusedError(FailedError.code, f"the candidate's runtime died of {name}")
    return f"by {name}"
