"""All twins of one process: started, looked at, and ended so that the cloud's ledger can be compared with theirs."""

import gc
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

from roadloop_agent.sim.loop import Loop
from roadloop_agent.sim.twin import Twin

STATUS_S = 1.0
_LOOK_S = 0.2


class TwinFleet:
    """Owned by one thread."""

    def __init__(self, twins: Sequence[Twin], loop: Loop, executors: Sequence[Executor], start_within_s: float) -> None:
        """`executors` are ended with the fleet."""
        self._twins = list(twins)
        self._loop = loop
        self._executors = executors
        self._start_within_s = start_within_s

    def run(self, stop: Callable[[], bool], show: Callable[[dict[str, Any]], None], drain_s: float) -> dict[str, Any]:
        """Until `stop`; then no more samples, and for at most `drain_s` what there is is sent. The account of all.

        `show` gets a status every second.
        """
        loop, count = self._loop, len(self._twins)
        for index, twin in enumerate(self._twins):
            loop.after(self._start_within_s * index / count, twin.start)
        self._show(show)
        loop.after(self._start_within_s, gc.freeze)
        loop.run(stop)
        for twin in self._twins:
            twin.settle()
        until_s = loop.clock() + drain_s
        self._look()
        loop.run(lambda: loop.clock() >= until_s or all(twin.has_sent_all for twin in self._twins))
        accounts = [twin.account() for twin in self._twins]
        status = self.status()
        for twin in self._twins:
            twin.close()
        for executor in self._executors:
            executor.shutdown(wait=False, cancel_futures=True)
        return {"status": status, "twins": accounts}

    def status(self) -> dict[str, Any]:
        """Sums over all twins."""
        running: Counter[str] = Counter()
        states: Counter[str] = Counter()
        for twin in self._twins:
            if twin.life is None:
                continue
            for slot in twin.life.parts.mailroom.slots.values():
                states[slot.state] += 1
                if slot.running is not None:
                    running[f"{slot.task} {slot.running.version}"] += 1
        stats = [twin.spool.stats() for twin in self._twins]
        lives = [twin.life for twin in self._twins if twin.life is not None]
        return {
            "twins": len(self._twins),
            "connected": sum(life.parts.session.view().connected for life in lives),
            "running": dict(sorted(running.items())),
            "states": dict(sorted(states.items())),
            "produced": sum(sum(twin.spool.produced.values()) for twin in self._twins),
            "pending": sum(each.pending_samples for each in stats),
            "lost": sum(each.lost_samples for each in stats),
            "faults": self._loop.faults,
            "late_s": round(self._loop.late_s, 3),
        }

    def _show(self, show: Callable[[dict[str, Any]], None]) -> None:
        show(self.status())
        self._loop.after(STATUS_S, lambda: self._show(show))

    def _look(self) -> None:
        """Keeps the loop turning while the last batches are committed."""
        self._loop.after(_LOOK_S, self._look)
