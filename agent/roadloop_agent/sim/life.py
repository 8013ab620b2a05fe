"""A twin from one start to the next power cut: the link's owner and the update service's, turned by the loop.

On a vehicle these are threads that wait; here the loop turns them when there is something to do. What takes long there
(downloads, self-tests, installing) takes long here too, in one of the workers.
"""

import queue
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

from roadloop_agent.link.batcher import Batcher
from roadloop_agent.link.mailroom import Event, Mailroom, ToDrive
from roadloop_agent.link.process import Link
from roadloop_agent.link.session import Publish, Session
from roadloop_agent.sim.drive import TwinDrive
from roadloop_agent.sim.loop import Loop
from roadloop_agent.sim.mqtt import TwinMqtt
from roadloop_agent.sim.scenario import Rates
from roadloop_agent.sim.spool import MemorySpool
from roadloop_agent.sim.turns import Turns
from roadloop_agent.update.service import UpdateService
from roadloop_models.contract.messages import ReportedSlot

_LEAST_WAIT_S = 0.02
_IDLE_S = 0.99
"""A session that is not to be polled for so long has nothing to do."""


class WakingQueue(queue.SimpleQueue[Event]):
    """Says when there is something in it. From any thread."""

    def __init__(self) -> None:
        super().__init__()
        self.wake: Callable[[], None] = lambda: None

    def put(self, item: Event, block: bool = True, timeout: float | None = None) -> None:
        """See SimpleQueue."""
        super().put(item)
        self.wake()


class TwinMailroom(Mailroom):
    """Keeps the last report, for whoever looks at the twins."""

    def __init__(self, pipe: ToDrive, events: WakingQueue) -> None:
        super().__init__(pipe, events)
        self.slots: Mapping[str, ReportedSlot] = {}

    def report(self, slots: Mapping[str, ReportedSlot]) -> None:
        """See Mailroom."""
        self.slots = slots
        super().report(slots)


@dataclass(frozen=True)
class Parts:
    """What a life consists of."""

    mailroom: TwinMailroom
    events: WakingQueue
    link: Link
    session: Session
    transport: TwinMqtt
    updates: UpdateService
    drive: TwinDrive
    batcher: Batcher
    spool: MemorySpool


class Life:
    """See the module. All in the loop's thread, but for `wake` and what the workers do."""

    def __init__(self, parts: Parts, loop: Loop, workers: Executor, turns: Turns, wall_ms: Callable[[], int]) -> None:
        self.parts = parts
        self._loop = loop
        self._workers = workers
        self._turns = turns
        self._wall_ms = wall_ms
        self._over = False
        self._settled = False
        self._woken = False
        self._working = False
        self._tick_s = 1.0
        self._due_s: float | None = None
        parts.events.wake = self._wake

    @property
    def is_over(self) -> bool:
        """Whether nothing of it runs any more; a worker may need a moment to notice."""
        return self._over and not self._working

    @property
    def has_sent_all(self) -> bool:
        """Whether the cloud has committed everything."""
        return not self.parts.spool.stats().pending_batches

    def begin(self, rates: Rates, phase: float) -> None:
        """Start. `phase` in [0, 1): when in the first period drive speaks first."""
        health_every_s, self._tick_s = rates.health_every_s, rates.tick_s
        self.parts.drive.start()
        self._turn()
        self._loop.after(health_every_s * phase, lambda: self._tell(health_every_s, health_every_s * phase))

    def cut(self) -> None:
        """The power is gone."""
        self._over = True
        self.parts.updates.cut()
        self.parts.transport.drop()

    def settle(self) -> None:
        """Make no more samples; what there is is sealed."""
        self._settled = True
        self.parts.spool.append(self.parts.batcher.seal_all())
        self._wake()

    def close(self) -> None:
        """A clean end."""
        if self._over:
            return
        for action in self.parts.session.farewell():
            if isinstance(action, Publish):
                self.parts.transport.publish(action)
        self.parts.transport.close(0.0)
        self._over = True
        self.parts.updates.cut()

    # Turning.

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._loop.soon(self._turn)

    def _turn(self) -> None:
        self._woken = False
        if self._over:
            return
        parts = self.parts
        parts.mailroom.heard()
        busy = True
        while busy:
            busy = parts.updates.turn(0.0)
            while not parts.events.empty():
                parts.link.handle(parts.events.get_nowait())
                busy = True
        parts.link.act()
        if parts.updates.has_work and not self._working:
            self._working = True
            self._workers.submit(self._work)
        self._plan()

    def _plan(self) -> None:
        """Turn again when time alone asks for it."""
        now_s = self._loop.clock()
        wait_s = self.parts.session.next_poll_s(now_s)
        due_s = now_s + (self._tick_s if wait_s >= _IDLE_S else max(_LEAST_WAIT_S, wait_s))
        if self._due_s is None or due_s < self._due_s - _LEAST_WAIT_S:
            self._due_s = due_s
            self._loop.at(due_s, lambda: self._poll(due_s))

    def _poll(self, due_s: float) -> None:
        if self._due_s == due_s:
            self._due_s = None
            self._turn()

    def _tell(self, every_s: float, passed_s: float) -> None:
        """Drive speaks: samples to the spool, the rest to whom it is for."""
        if self._over or self._settled:
            return
        now_s, parts = self._loop.clock(), self.parts
        sealed = parts.batcher.add(parts.drive.tell(passed_s, self._wall_ms()), now_s) + parts.batcher.due(now_s)
        parts.spool.append(sealed)
        self._wake()
        self._loop.after(every_s, lambda: self._tell(every_s, every_s))

    # In a worker.

    def _work(self) -> None:
        try:
            with self._turns.taken():
                while self.parts.updates.has_work and not self._over:
                    self.parts.updates.work()
        finally:
            self._loop.soon(self._worked)

    def _worked(self) -> None:
        self._working = False
        self._turn()
