"""What campaigns would have sent on recorded drives: the vehicle's own decisions, run over traces. No I/O but reading.

What the prediction rests on is what the trace says: it holds for a vehicle that begins with these campaigns at the
start of the drive and sends nothing else (its slots' capture policy may send some of these frames before).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from roadloop_models.campaigns.budgets import Budgets
from roadloop_models.campaigns.campaign import MAX_ITEM_BYTES, Campaign, Understood, understand
from roadloop_models.campaigns.clip import pack
from roadloop_models.campaigns.trace import TraceHead, TraceMoment
from roadloop_models.campaigns.watch import Moment, Watch
from roadloop_models.errors import DataError

DAY_S = 86_400.0


@dataclass(frozen=True)
class Predicted:
    """One campaign in one slot of one vehicle."""

    vehicle: str
    slot: str
    campaign: str
    seconds: float
    """Of the drive."""
    moments: int
    hits: int
    refused: int
    """Hits for which the day's budget had no room."""
    items: int
    size_bytes: int

    @property
    def bytes_per_day(self) -> float:
        """At this rate, around the clock; a drive of less than a day cannot show what a budget holds back."""
        return self.size_bytes * DAY_S / self.seconds if self.seconds > 0 else float(self.size_bytes)


def predict(campaigns: Sequence[Campaign], lines: Iterable[TraceHead | TraceMoment]) -> Iterator[Predicted]:
    """Each campaign in each slot of its task, vehicle by vehicle. Raises ConfigError (a campaign), DataError (a moment
    of a slot that no head names)."""
    understood = [understand(campaign, f"campaign {campaign.name}") for campaign in campaigns]
    drive: _Drive | None = None
    for line in lines:
        if isinstance(line, TraceHead):
            if drive is not None:
                yield from drive.predictions()
            drive = _Drive(line, understood)
        elif drive is None or line.slot not in drive.head.slots:
            raise DataError(f"the trace has a moment of slot '{line.slot}', which its head does not name")
        else:
            drive.step(line)
    if drive is not None:
        yield from drive.predictions()


class _Drive:
    """One vehicle's."""

    def __init__(self, head: TraceHead, campaigns: Sequence[Understood]) -> None:
        self.head = head
        self._budgets = Budgets({})
        self._sent: set[str] = set()
        self._first_ms: int | None = None
        self._last_ms = 0
        self._slots = {
            slot: _Slot(slot, mine, self._budgets, self._sent)
            for slot, task in head.slots.items()
            if (mine := [one for one in campaigns if one.campaign.task == task])
        }

    def step(self, line: TraceMoment) -> None:
        self._first_ms = line.t_ms if self._first_ms is None else self._first_ms
        self._last_ms = max(self._last_ms, line.t_ms)
        self._budgets.tick(line.t_ms / 1000.0, line.t_ms / 1000.0)
        slot = self._slots.get(line.slot)
        if slot is not None:
            slot.step(line)

    def predictions(self) -> Iterator[Predicted]:
        seconds = 0.0 if self._first_ms is None else (self._last_ms - self._first_ms) / 1000.0
        for name, slot in self._slots.items():
            slot.watch.end()
            for campaign, tally in slot.watch.tallies.items():
                yield Predicted(
                    vehicle=self.head.vehicle,
                    slot=name,
                    campaign=campaign,
                    seconds=seconds,
                    moments=slot.moments,
                    hits=tally.hits,
                    refused=tally.refused,
                    items=tally.items,
                    size_bytes=tally.bytes,
                )


@dataclass(frozen=True)
class _Size:
    size_bytes: int


class _Slot:
    """One slot's watch, and the moments that it may ask for."""

    def __init__(self, slot: str, campaigns: Sequence[Understood], budgets: Budgets, sent: set[str]) -> None:
        self._keeps = campaigns[0].watched.keeps
        self._sent = sent
        self._lines: dict[int, TraceMoment] = {}
        self.moments = 0
        self.watch: Watch[_Size] = Watch(slot, campaigns, budgets, self)

    def step(self, line: TraceMoment) -> None:
        number, self.moments = self.moments, self.moments + 1
        self._lines[number] = line
        self.watch.step(Moment(number, line.t_s if self._keeps == "signals" else float(number), line.values))
        for old in list(self._lines):
            if old >= self.watch.oldest:
                break
            del self._lines[old]

    def develop(self, about: int, numbers: Sequence[int]) -> _Size | None:
        """See Outlet: the size is what the trace says, or that of the clip made of it."""
        line = self._lines.get(about)
        if line is None:
            return None
        if self._keeps == "signals":
            kept = [self._lines[number] for number in numbers if number in self._lines]
            return _bounded(len(pack([(one.t_s, one.signals or {}) for one in kept])))
        if line.size_bytes is None:
            raise DataError("the trace does not say how large its frames are; 'roadloop-agent trace' writes it")
        if line.sha256 is not None:
            if line.sha256 in self._sent:
                return None
            self._sent.add(line.sha256)
        return _bounded(line.size_bytes)

    def send(self, campaign: str, item: _Size) -> None:
        """See Outlet: nothing is sent here."""


def _bounded(size_bytes: int) -> _Size | None:
    return _Size(size_bytes) if size_bytes <= MAX_ITEM_BYTES else None
