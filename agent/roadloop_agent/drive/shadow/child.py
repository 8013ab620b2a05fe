"""The process of a shadow: both models decide about what drive has seen, and it is told how they differ.

`python -m roadloop_agent.drive.shadow.child FD PARENT VARIANT CANDIDATE_DIR INCUMBENT_DIR PROVIDERS KEY`. It takes the
processor when nobody else wants it, and times are of the processor: what a machine under load does to a process of the
lowest priority says nothing about a model. Providers beyond the CPU compute elsewhere: there it is the clock's time.
"""

import contextlib
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roadloop_agent.drive.pipeline import Model, load_model
from roadloop_agent.drive.shadow.compare import AnyComparison, Decided
from roadloop_agent.drive.shadow.wire import Answer, Compared, Failed, Passed, Ready, Seen, receive_case, send_answer
from roadloop_agent.onboard import ON_BOARD, load_named
from roadloop_models.bundle.manifest import CPU_PROVIDERS
from roadloop_models.errors import FailedError, RoadloopError
from roadloop_models.sealed import FileKeyStore

NICE = 19
OOM_SCORE_MOST = 1000
_CPU = {*CPU_PROVIDERS, "delegate", "builtin"}
"""Providers that compute where this process does; TFLite's delegate is XNNPACK."""


@dataclass(frozen=True)
class _Took:
    """What a model decided, or why it could not."""

    decided: Decided[Any] | None
    latency_us: float
    code: str = ""
    detail: str = ""


class Looker:
    """Two models of one task, and the clock that they are timed by."""

    def __init__(
        self, comparison: AnyComparison, candidate: Model, incumbent: Model, clock_ns: Callable[[], int]
    ) -> None:
        """Raises ConfigError where the two cannot be compared."""
        comparison.accept(candidate, incumbent)
        self._comparison = comparison
        self._candidate = candidate
        self._incumbent = incumbent
        self._clock_ns = clock_ns
        self._candidate_first = False
        self._cpu_s = time.process_time()

    def look(self, seen: Seen) -> Answer:
        """What the two make of it. They take turns to be first: the second one finds the caches warm."""
        self._candidate_first = not self._candidate_first
        if self._candidate_first:
            mine = self._decide(self._candidate, seen)
            theirs = self._decide(self._incumbent, seen)
        else:
            theirs = self._decide(self._incumbent, seen)
            mine = self._decide(self._candidate, seen)
        if theirs.decided is None:
            return Passed(self._spent_s())
        if mine.decided is None:
            return Failed("frame", mine.code, mine.detail, self._spent_s())
        agrees = self._comparison.agree(mine.decided.what, theirs.decided.what)
        delta = None
        if mine.decided.confidence is not None and theirs.decided.confidence is not None:
            delta = mine.decided.confidence - theirs.decided.confidence
            if not math.isfinite(delta):
                return Failed("frame", FailedError.code, "its confidence is not finite", self._spent_s())
        return Compared(bool(agrees), mine.latency_us, theirs.latency_us, delta, self._spent_s())

    def _decide(self, model: Model, seen: Seen) -> "_Took":
        started_ns = self._clock_ns()
        try:
            decided = self._comparison.decide(model, seen)
        except RoadloopError as error:
            return _Took(None, 0.0, error.code, str(error)[:500])
        except Exception as error:  # noqa: BLE001 (a model may raise anything: that is what is found out here)
            return _Took(None, 0.0, FailedError.code, f"{type(error).__name__}: {error}"[:500])
        return _Took(decided, (self._clock_ns() - started_ns) / 1000.0)

    def _spent_s(self) -> float:
        now_s = time.process_time()
        spent_s, self._cpu_s = now_s - self._cpu_s, now_s
        return spent_s


def serve(sock: socket.socket, open_looker: Callable[[], Looker]) -> None:
    """Answer until the other end closes."""
    try:
        looker = open_looker()
    except RoadloopError as error:
        send_answer(sock, Failed("all", error.code, str(error)[:500]))
        return
    send_answer(sock, Ready())
    while (seen := receive_case(sock)) is not None:
        send_answer(sock, looker.look(seen))


def give_way() -> None:
    """Take the processor last, and be the first that the kernel ends where memory runs out (Linux)."""
    os.nice(NICE)
    Path("/proc/self/oom_score_adj").write_text(f"{OOM_SCORE_MOST}\n", encoding="ascii")


def main(arguments: Sequence[str]) -> int:
    """Until drive closes its end; the exit code."""
    from roadloop_agent.supervisor import die_with_parent

    fd, parent, variant, candidate_dir, incumbent_dir, providers, key = arguments
    die_with_parent(int(parent))
    give_way()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor ends its children
    names = tuple(providers.split(","))

    def open_looker() -> Looker:
        keys = FileKeyStore(Path(key))
        incumbent, candidate = (
            load_model(Path(each), variant, None, names, keys) for each in (incumbent_dir, candidate_dir)
        )
        comparison: AnyComparison = load_named(ON_BOARD[candidate.bundle.manifest.task].shadow)
        on_cpu = {*candidate.runner.providers, *incumbent.runner.providers} <= _CPU
        return Looker(comparison, candidate, incumbent, time.process_time_ns if on_cpu else time.perf_counter_ns)

    # A closed socket says that drive wants no more of it.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError), socket.socket(fileno=int(fd)) as sock:
        serve(sock, open_looker)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
