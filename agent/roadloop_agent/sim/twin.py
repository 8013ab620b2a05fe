"""One twin over all its starts: what it keeps on disk and in its spool, and what the scenario does to it."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from random import Random
from typing import Any

import msgspec

from roadloop_agent.config import Config
from roadloop_agent.sim.life import Life
from roadloop_agent.sim.loop import Loop
from roadloop_agent.sim.scenario import Fate
from roadloop_agent.sim.spool import MemorySpool
from roadloop_agent.sim.turns import Turns
from roadloop_agent.sim.weather import Spell, spells

_LOOK_S = 0.1


class Twin:
    """See the module. In the loop's thread."""

    def __init__(
        self,
        config: Config,
        fate: Fate,
        *,
        seed: str,
        build: Callable[["Twin"], Life],
        loop: Loop,
        workers: Executor,
        turns: Turns,
    ) -> None:
        """`build` makes a life out of what the twin keeps; it runs in a worker, because it reads and writes files."""
        self.config = config
        self.fate = fate
        self.spool = MemorySpool(config.spool.max_bytes)
        self.life: Life | None = None
        self.starts = 0
        self._random = Random(f"{seed}:{config.vehicle_id}")
        self._build = build
        self._loop = loop
        self._workers = workers
        self._turns = turns
        self._settled = False
        self._is_starting = False

    def chance(self) -> float:
        """In [0, 1), the same sequence for the same seed and vehicle."""
        return self._random.random()

    def late_s(self) -> float:
        """How much later a message is than it should be."""
        link = self.fate.link
        return 0.0 if link is None or not link.reorder_s else self._random.random() * link.reorder_s

    def start(self) -> None:
        """Switch it on, and let the scenario begin."""
        link, power, begin_s = self.fate.link, self.fate.power, self._loop.clock()

        def faults(every_s: float | None, for_s: float) -> Iterator[Spell]:
            return spells(Random(self._random.random()).random, every_s, for_s)

        if link is not None:
            self._follow(begin_s, faults(link.drop_every_s, link.drop_for_s), self._lose, self._cover)
            self._follow(begin_s, faults(link.stall_every_s, link.stall_for_s), self._stall, self._go_on)
        if power is not None:
            self._follow(begin_s, faults(power.cut_every_s, power.off_for_s), self._cut, self._switch_on)
        self._switch_on()

    def settle(self) -> None:
        """No more samples and no more faults: what there is is sent."""
        self._settled = True
        if self.life is None:
            return
        self._cover()
        self._go_on()
        self.life.settle()

    @property
    def has_sent_all(self) -> bool:
        """Whether the cloud has committed everything."""
        return self.life is not None and self.life.has_sent_all

    def close(self) -> None:
        """A clean end."""
        if self.life is not None:
            self.life.close()

    def account(self) -> dict[str, Any]:
        """What it has numbered, sent and run so far."""
        stats = self.spool.stats()
        life = self.life
        slots = {} if life is None else life.parts.mailroom.slots
        return {
            "vehicle": self.config.vehicle_id,
            "starts": self.starts,
            "connected": life is not None and life.parts.session.view().connected,
            "connections": 0 if life is None else life.parts.session.view().connections,
            "desired_version": 0 if life is None else life.parts.updates.desired_version,
            "slots": msgspec.to_builtins(slots),
            "produced": [[boot, stream, last] for (boot, stream), last in self.spool.produced.items()],
            "pending_samples": stats.pending_samples,
            "lost_samples": stats.lost_samples,
        }

    # Power.

    def _switch_on(self) -> None:
        if self._is_starting:
            return  # the power came and went before it was up: that start goes on, a second one would share its files
        if self.life is not None and not self.life.is_over:
            self._loop.after(_LOOK_S, self._switch_on)  # a worker has not noticed the cut yet
            return
        self.life = None
        self._is_starting = True
        self._workers.submit(self._make)

    def _make(self) -> None:
        try:
            with self._turns.taken():
                life = self._build(self)
        except Exception as error:
            failure = error

            def fail() -> None:
                self._is_starting = False
                raise failure  # into the loop, which counts it

            self._loop.soon(fail)
            raise
        self._loop.soon(lambda: self._begin(life))

    def _begin(self, life: Life) -> None:
        self.life, self._is_starting = life, False
        self.starts += 1
        life.begin(self.fate.rates, self.chance())
        if self._settled:
            self.settle()

    def _cut(self) -> None:
        if self.life is not None:
            self.life.cut()

    # The link.

    def _lose(self) -> None:
        if self.life is not None:
            self.life.parts.transport.covered = False
            self.life.parts.transport.lose("no coverage")

    def _cover(self) -> None:
        if self.life is not None:
            self.life.parts.transport.covered = True

    def _stall(self) -> None:
        if self.life is not None:
            self.life.parts.transport.stall(True)

    def _go_on(self) -> None:
        if self.life is not None:
            self.life.parts.transport.stall(False)

    def _follow(
        self, begin_s: float, course: Iterator[Spell], begins: Callable[[], None], ends: Callable[[], None]
    ) -> None:
        """Let one spell after the other begin and end."""
        spell = next(course, None)
        if spell is None:
            return

        def begin() -> None:
            if not self._settled:
                begins()
                self._loop.at(begin_s + spell.ends_s, end)

        def end() -> None:
            ends()
            self._follow(begin_s, course, begins, ends)

        self._loop.at(begin_s + spell.begins_s, begin)
