"""Applies the governor: counts what each slot did, reads the temperature, sets how many frames a slot gets."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from roadloop_agent.drive.capture import Subscriber
from roadloop_agent.drive.governor import Band, Governed, Load, govern, share
from roadloop_agent.drive.thermal import Thermometer

_LOG = logging.getLogger(__name__)
PERIOD_S = 1.0


@dataclass
class Work:
    """What a slot's thread did so far. Only that thread writes it."""

    frames: int = 0
    """Frames that it took."""
    late: int = 0
    """Those decided later than the deadline after their capture."""
    expired: int = 0
    """Those given up because they were older than the deadline when they were taken."""
    busy_s: float = 0.0


@dataclass
class Regulated:
    """A slot whose rate may be lowered."""

    name: str
    priority: int
    work: Work
    subscriber: Subscriber
    before: Work = field(default_factory=Work)

    def load(self) -> Load:
        """What it did since the last call."""
        now = Work(self.work.frames, self.work.late, self.work.expired, self.work.busy_s)
        before, self.before = self.before, now
        late = now.late - before.late + now.expired - before.expired
        return Load(self.priority, now.frames - before.frames, late, now.busy_s - before.busy_s)


@dataclass(frozen=True)
class Pace:
    """How a slot keeps up; frames are counted since the start of drive."""

    late: int = 0
    expired: int = 0
    shed: int = 0
    share: float = 1.0
    """Of the frames that it wants it gets this share."""
    band: Band = Band.NORMAL
    temperature_c: float | None = None


class Regulator:
    """See the module; the main thread of drive calls it."""

    def __init__(self, slots: Sequence[Regulated], thermometer: Thermometer | None, clock: Callable[[], float]) -> None:
        self._slots = {slot.name: slot for slot in slots}
        self._thermometer = thermometer
        self._clock = clock
        self._due_s = clock() + PERIOD_S
        self._governed = Governed()

    def pace(self, slot: str) -> Pace:
        """How a slot keeps up; one that reads an `as-consumed` source is never late and never gives way."""
        band, temperature_c = self._heat()
        regulated = self._slots.get(slot)
        if regulated is None:
            return Pace(band=band, temperature_c=temperature_c)
        work, subscriber = regulated.work, regulated.subscriber
        return Pace(work.late, work.expired, subscriber.shed, subscriber.share, band, temperature_c)

    @property
    def strained(self) -> bool:
        """Whether the vehicle is warmer than it should be, or a slot gives way."""
        band, _ = self._heat()
        return band is not Band.NORMAL or any(self._governed.levels.values())

    def poll(self) -> None:
        """Once a PERIOD_S: judge the last period and set the shares for the next."""
        now_s = self._clock()
        if now_s < self._due_s:
            return
        # After a suspend the missed periods are not made up for.
        self._due_s = max(self._due_s + PERIOD_S, now_s)
        before = self._governed.levels
        band = Band.NORMAL if self._thermometer is None else self._thermometer.read()
        self._governed = govern(self._governed, {name: slot.load() for name, slot in self._slots.items()}, band)
        self._apply(before)

    def _apply(self, before: Mapping[str, int]) -> None:
        for slot in self._slots.values():
            level = self._governed.levels[slot.name]
            slot.subscriber.share = share(level)
            if level > before.get(slot.name, 0):
                _LOG.warning("slot %s: gives way: gets %g of its frames", slot.name, share(level))
            elif level < before.get(slot.name, 0):
                _LOG.info("slot %s: gets %g of its frames again", slot.name, share(level))

    def _heat(self) -> tuple[Band, float | None]:
        thermometer = self._thermometer
        return (Band.NORMAL, None) if thermometer is None else (thermometer.band, thermometer.temperature_c)
