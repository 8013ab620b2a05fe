"""The campaigns of one slot at work: moments go in, items to send come out. The vehicle and a back-test run this.

A moment is a frame of a camera with its decision, or a frame of signals with or without one. Where a campaign fires,
frames are sent one by one, those before it and those after it too, each once whichever campaign wants it; signals are
sent as one clip when its end has passed.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from roadloop_models.campaigns.budgets import Budgets
from roadloop_models.campaigns.campaign import MAX_FRAMES, Understood
from roadloop_models.campaigns.condition import Values
from roadloop_models.campaigns.watched import DISAGREEMENT

_BINS = 64
_MEMORY = 5000.0
_MOMENTS = 50_000
"""Of signals, in memory at most."""


@dataclass(frozen=True, slots=True)
class Moment:
    """`number` counts the slot's moments; `at` is the number itself for frames, seconds of source time for signals."""

    number: int
    at: float
    values: Values | None
    """What conditions may look at; None: nothing was decided."""


class Item(Protocol):
    """What would be sent."""

    @property
    def size_bytes(self) -> int:
        """Of its content."""


ItemT = TypeVar("ItemT", bound=Item)


class Outlet(Protocol[ItemT]):
    """Where items are made and sent."""

    def develop(self, about: int, numbers: Sequence[int]) -> ItemT | None:
        """The item of these moments, about one of them; None: it cannot be had, or was sent before."""

    def send(self, campaign: str, item: ItemT) -> None:
        """Send it; its bytes are spent already."""


class Ranks:
    """How a score compares with those before it, in bins of 1/64."""

    def __init__(self) -> None:
        self._counts = [0.0] * _BINS

    def is_top(self, score: float, share: float) -> bool:
        """Whether it is among the best share of what came before it; nothing is before there is enough."""
        place = min(_BINS - 1, max(0, int(score * _BINS)))
        total = sum(self._counts)
        # Scores of one bin cannot be told apart; half of them count as above.
        above = sum(self._counts[place + 1 :]) + 0.5 * self._counts[place]
        if total >= _MEMORY:
            self._counts = [count / 2 for count in self._counts]
        self._counts[place] += 1.0
        return total * share >= 1.0 and above < share * total


@dataclass
class Tally:
    """What one campaign came to so far."""

    hits: int = 0
    refused: int = 0
    """Hits for which the day had no room."""
    items: int = 0
    bytes: int = 0


@dataclass
class _Running:
    """One campaign in one slot."""

    understood: Understood
    key: str
    ranks: Ranks = field(default_factory=Ranks)
    last_hit: float | None = None
    fired: int = -1
    """The number of the last moment that fired."""
    until: float = -1.0
    """What is kept after a hit goes so far."""
    clip: tuple[int, float, float] | None = None
    """(about, from, to) of a clip that is not complete."""
    tally: Tally = field(default_factory=Tally)

    @property
    def name(self) -> str:
        return self.understood.campaign.name


class Watch(Generic[ItemT]):
    """See the module. One thread owns it."""

    def __init__(
        self, slot: str, campaigns: Sequence[Understood], budgets: Budgets, outlet: Outlet[ItemT], *, late: bool = True
    ) -> None:
        """`campaigns` are all of the slot's task. `late`: a shadow's answer may come some frames later."""
        self._running = [_Running(one, f"{slot}/{one.campaign.name}") for one in campaigns]
        self._budgets = budgets
        self._outlet = outlet
        self._clips = any(one.watched.keeps == "signals" for one in campaigns)
        waits = late and any(DISAGREEMENT in one.names for one in campaigns)
        self._before = max((one.campaign.before for one in campaigns), default=0.0)
        if waits and not self._clips:
            self._before = max(self._before, float(MAX_FRAMES))
        self._moments: deque[Moment] = deque(maxlen=_MOMENTS)
        self._kept: set[int] = set()

    @property
    def oldest(self) -> int:
        """No moment before this one will be asked for."""
        return self._moments[0].number if self._moments else 0

    @property
    def tallies(self) -> dict[str, Tally]:
        """By campaign."""
        return {one.name: one.tally for one in self._running}

    def step(self, moment: Moment) -> None:
        """The next moment."""
        for one in self._running:
            self._close(one, moment.at)
        self._moments.append(moment)
        for one in self._running:
            if moment.values is not None and self._wants(one, moment.values):
                self._fire(one, moment)
            if not self._clips and moment.at <= one.until:
                self._keep(one, moment.number)
        self._forget(moment.at)

    def hear(self, number: int, values: Values) -> None:
        """More is known of a moment that was: campaigns that look at it decide again."""
        moment = next((one for one in reversed(self._moments) if one.number == number), None)
        if moment is None or moment.values is None:
            return
        known = {**moment.values, **values}
        for one in self._running:
            if one.fired != number and one.understood.names & values.keys() and self._wants(one, known):
                self._fire(one, moment)

    def end(self) -> None:
        """The source has ended: what is open is complete."""
        for one in self._running:
            self._close(one, float("inf"))

    def _wants(self, one: _Running, values: Values) -> bool:
        if not one.understood.condition.holds(values):
            return False
        best = one.understood.campaign.highlight
        if best is None:
            return True
        score = values.get(best.by, math.nan)
        return not math.isnan(score) and one.ranks.is_top(score, best.share)

    def _fire(self, one: _Running, moment: Moment) -> None:
        campaign = one.understood.campaign
        if one.clip is not None or (one.last_hit is not None and abs(moment.at - one.last_hit) <= campaign.rest):
            return
        if not self._budgets.take_hit(one.key, campaign.budget):
            one.tally.refused += 1
            return
        one.tally.hits += 1
        one.last_hit, one.fired = moment.at, moment.number
        since, one.until = moment.at - campaign.before, moment.at + campaign.after
        if self._clips:
            one.clip = moment.number, since, one.until
            return
        for number in [kept.number for kept in self._moments if since <= kept.at <= one.until]:
            self._keep(one, number)

    def _keep(self, one: _Running, number: int) -> None:
        if number not in self._kept:
            self._kept.add(number)
            self._send(one, number, [number])

    def _close(self, one: _Running, at: float) -> None:
        if one.clip is None or at <= one.clip[2]:
            return
        (about, since, until), one.clip = one.clip, None
        self._send(one, about, [kept.number for kept in self._moments if since <= kept.at <= until])

    def _send(self, one: _Running, about: int, numbers: Sequence[int]) -> None:
        budget = one.understood.campaign.budget
        item = self._outlet.develop(about, numbers) if self._budgets.has_bytes(one.key, budget) else None
        if item is None:
            return
        self._budgets.spend(one.key, item.size_bytes)
        one.tally.items += 1
        one.tally.bytes += item.size_bytes
        self._outlet.send(one.name, item)

    def _forget(self, at: float) -> None:
        needed = min([at - self._before, *(one.clip[1] for one in self._running if one.clip is not None)])
        while self._moments and self._moments[0].at < needed:
            self._kept.discard(self._moments.popleft().number)
