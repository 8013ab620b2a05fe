"""A minute of each slot in one sample: what a link that costs by the byte still carries. No I/O."""

import math
from dataclasses import dataclass

from roadloop_agent.drive.slots import Tally

PERIOD_S = 60.0
_Key = tuple[int, float]
"""Slot's index in the profile, release (NaN is written as -1: no model)."""


@dataclass
class _Sum:
    decisions: int = 0
    errors: int = 0
    latency_sum_us: float = 0.0
    latency_max_us: float = 0.0
    confidence_sum: float = 0.0
    confidence_count: int = 0
    confidence_min: float = math.inf

    def add(self, tally: Tally) -> None:
        self.decisions += tally.decisions
        self.errors += tally.errors
        self.latency_sum_us += tally.latency_sum_us
        self.latency_max_us = max(self.latency_max_us, tally.latency_max_us)
        self.confidence_sum += tally.confidence_sum
        self.confidence_count += tally.confidence_count
        self.confidence_min = min(self.confidence_min, tally.confidence_min)


class Summaries:
    """Collects tallies until a minute is full."""

    def __init__(self, now_s: float) -> None:
        self._since_s = now_s
        self._sums: dict[_Key, _Sum] = {}
        self._now: dict[int, tuple[int, int]] = {}  # slot -> frames dropped and shed so far
        self._before: dict[int, tuple[int, int]] = {}

    def add(self, index: int, tally: Tally, dropped: int, shed: int) -> None:
        """What a slot did since the last call; `dropped` and `shed` are frames so far."""
        key = (index, -1.0 if tally.ref is None else float(tally.ref.release))
        self._sums.setdefault(key, _Sum()).add(tally)
        self._now[index] = (dropped, shed)

    def rows(self, now_s: float, ended: bool = False) -> list[list[float]]:
        """Samples of the stream summary: one for every slot and release that ran, once a minute and at the end."""
        seconds = now_s - self._since_s
        if seconds < PERIOD_S and not ended:
            return []
        rows = [self._row(key, total, seconds) for key, total in self._sums.items()]
        self._since_s, self._sums = now_s, {}
        return rows

    def _row(self, key: _Key, total: _Sum, seconds: float) -> list[float]:
        index, release = key
        dropped, shed = self._now[index]
        dropped_before, shed_before = self._before.get(index, (0, 0))
        self._before[index] = self._now[index]  # a second release of the same minute has nothing to add
        nothing = math.nan
        return [
            float(index),
            nothing if release < 0 else release,
            seconds,
            float(total.decisions),
            float(total.errors),
            total.confidence_sum / total.confidence_count if total.confidence_count else nothing,
            total.confidence_min if total.confidence_count else nothing,
            total.latency_sum_us / total.decisions if total.decisions else nothing,
            total.latency_max_us if total.decisions else nothing,
            float(dropped - dropped_before),
            float(shed - shed_before),
        ]
