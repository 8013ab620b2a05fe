"""Recorded feeds as frames: merged by their time, which goes on whatever their clocks do."""

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from roadloop_agent.drive.frames import Item, Reported
from roadloop_agent.drive.sources.signals.board import Board, Limits, Sampler, Timeline, Updates
from roadloop_models.errors import DataError, RoadloopError
from roadloop_models.signals import SignalFrame

_MERGE_KEYS = 2


class RecordedFeed(Protocol):
    """A recording that was opened."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    @property
    def paths(self) -> frozenset[str]:
        """The VSS paths that it gives."""

    @property
    def indices(self) -> tuple[int, ...]:
        """Their places on the board."""

    def readings(self, passed_over: Reported) -> Iterator[tuple[float, Updates]]:
        """From its first to its last: (seconds by its own clock, what it says)."""

    def troubles(self) -> "Sequence[RoadloopError]":
        """What was not as it should be so far."""


Timed = tuple[float, int, Updates, tuple[int, ...]]
"""(time, number of the feed, updates, places on the board whose age is not known any more)"""


class Replay:
    """Opened again, it goes on in time and number where it was: the handlers behind it see one long drive."""

    def __init__(
        self,
        open_feeds: Callable[[], Sequence[tuple[RecordedFeed, float]]],
        limits: Sequence[Limits],
        rate_hz: float,
    ) -> None:
        """`open_feeds` gives each feed with its `max_gap_s`."""
        self._open_feeds = open_feeds
        self._limits = limits
        self._rate_hz = rate_hz
        self._number = 0
        self._last_s: float | None = None
        self.board = Board(limits)

    def frames(self, passed_over: Reported) -> Iterator[Item]:
        """SignalFrames at the source's rate. Raises DataError, ConfigError where a feed cannot be read."""
        feeds = self._open_feeds()
        self.board = board = Board(self._limits)
        sampler = Sampler(self._rate_hz)
        shift_s: float | None = None
        t_s = -math.inf
        readings = [_timed(number, feed, gap_s, passed_over) for number, (feed, gap_s) in enumerate(feeds)]
        merged = readings[0] if len(readings) == 1 else heapq.merge(*readings, key=lambda timed: timed[:_MERGE_KEYS])
        for clock_s, _, updates, outdated in merged:
            if shift_s is None:
                shift_s = 0.0 if self._last_s is None else self._last_s + 1 / self._rate_hz - clock_s
            t_s = clock_s + shift_s
            for moment_s in sampler.due(t_s):
                yield self._item(board.frame(moment_s))
                self._tell(feeds, passed_over)
            if outdated:
                board.outdate(outdated)
            board.put(t_s, updates)
        for moment_s in sampler.due(math.nextafter(t_s, math.inf)):
            yield self._item(board.frame(moment_s))
        for feed, _ in feeds:
            for trouble in feed.troubles():
                passed_over(trouble)

    def _item(self, frame: SignalFrame) -> Item:
        item = Item(self._number, f"{frame.t_s:.3f} s", frame, frame.t_s)
        self._number += 1
        self._last_s = frame.t_s
        return item

    def _tell(self, feeds: Sequence[tuple[RecordedFeed, float]], passed_over: Reported) -> None:
        if self._number % max(1, round(self._rate_hz)) == 0:
            for feed, _ in feeds:
                for trouble in feed.troubles():
                    passed_over(trouble)


def _timed(number: int, feed: RecordedFeed, max_gap_s: float, passed_over: Reported) -> Iterator[Timed]:
    timeline = Timeline(max_gap_s)
    for clock_s, updates in feed.readings(passed_over):
        if not math.isfinite(clock_s):
            passed_over(DataError(f"{feed.name}: a row without a time"))
            continue
        t_s, jumped = timeline.continued(clock_s)
        if jumped:
            passed_over(
                DataError(
                    f"{feed.name}: its clock jumped by {timeline.last_jump_s:.1f} s ({timeline.jumps} times so far); "
                    "time goes on without the jump, and what it said before is stale"
                )
            )
        yield t_s, number, updates, feed.indices if jumped else ()
