"""The latest value of every signal, and what is known about it at a moment of source time. No I/O, no clock."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from roadloop_models.signals import VSS, Quality, SignalFrame

Updates = Sequence[tuple[int, float]]
"""(the signal's place on the board, its value in the catalogue's unit)"""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is believed of one signal."""

    path: str
    low: float
    high: float
    stale_s: float
    frozen_s: float | None = None
    rests_at: float | None = None

    @classmethod
    def of_catalogue(cls, path: str) -> "Limits":
        """As the catalogue has it. Raises KeyError for a path that is not in it."""
        spec = VSS[path]
        return cls(path, spec.low, spec.high, spec.stale_s)


@dataclass(slots=True)
class Tally:
    """What was seen of one signal so far."""

    values: int = 0
    low: float = math.inf
    high: float = -math.inf
    frames: dict[Quality, int] = field(default_factory=lambda: dict.fromkeys(Quality, 0))
    """Frames sampled, by the quality that the signal had in them."""


class Board:
    """Values are put on it as they come, and frames are sampled from it. Times must not go back."""

    def __init__(self, limits: Sequence[Limits]) -> None:
        self.limits = tuple(limits)
        count = len(self.limits)
        self._values = [math.nan] * count
        self._seen_s = [-math.inf] * count
        self._changed_s = [-math.inf] * count
        self._ever = [False] * count
        self.tallies = [Tally() for _ in range(count)]

    def put(self, t_s: float, updates: Updates) -> None:
        """Values that came at `t_s`; what is not finite counts as seen, and is out of range."""
        for index, value in updates:
            if value != self._values[index]:
                self._values[index] = value
                self._changed_s[index] = t_s
            self._seen_s[index] = t_s
            self._ever[index] = True
            tally = self.tallies[index]
            tally.values += 1
            tally.low = min(tally.low, value)
            tally.high = max(tally.high, value)

    def outdate(self, indices: Sequence[int]) -> None:
        """The clock that these signals came by has jumped: how old they are is not known any more."""
        for index in indices:
            self._seen_s[index] = -math.inf
            self._changed_s[index] = -math.inf

    def quality(self, index: int, t_s: float) -> Quality:
        """What is known about a signal at `t_s`."""
        limits = self.limits[index]
        value = self._values[index]
        if not self._ever[index]:
            return Quality.NEVER
        if t_s - self._seen_s[index] > limits.stale_s:
            return Quality.STALE
        if not limits.low <= value <= limits.high:
            return Quality.OUT_OF_RANGE
        if limits.frozen_s is not None and t_s - self._changed_s[index] > limits.frozen_s and value != limits.rests_at:
            return Quality.FROZEN
        return Quality.OK

    def frame(self, t_s: float) -> SignalFrame:
        """All signals as they are at `t_s`."""
        values, qualities = {}, {}
        for index, limits in enumerate(self.limits):
            quality = self.quality(index, t_s)
            self.tallies[index].frames[quality] += 1
            qualities[limits.path] = quality
            values[limits.path] = self._values[index] if quality is Quality.OK else math.nan
        return SignalFrame(t_s, values, qualities)


class Sampler:
    """When frames are due: evenly from the first moment that it is told of."""

    def __init__(self, rate_hz: float) -> None:
        self._rate_hz = rate_hz
        self._first_s: float | None = None
        self._next = 0

    def due(self, t_s: float) -> list[float]:
        """The moments before `t_s` at which a frame is due and was not yet given out."""
        if self._first_s is None:
            self._first_s = t_s
        moments = []
        while (moment_s := self._first_s + self._next / self._rate_hz) < t_s:
            moments.append(moment_s)
            self._next += 1
        return moments


class Timeline:
    """The time of one feed, which never goes back whatever its clock does.

    A step back of up to `_DISORDER_S` is disorder in a log, and taken as no step. Any other step back, and one ahead of
    more than `max_gap_s`, is a jump of the clock: time goes on from where it was, and the jump is counted.
    """

    def __init__(self, max_gap_s: float) -> None:
        self.jumps = 0
        self.last_jump_s = 0.0
        self._max_gap_s = max_gap_s
        self._clock_s: float | None = None
        self._shift_s = 0.0

    def continued(self, clock_s: float) -> tuple[float, bool]:
        """(time of the feed, whether its clock has just jumped) for a time stamp; it must be finite."""
        last_s = self._clock_s
        if last_s is None:
            self._clock_s = clock_s
            return clock_s, False
        step_s = clock_s - last_s
        if -_DISORDER_S <= step_s <= 0:
            return last_s + self._shift_s, False
        self._clock_s = clock_s
        if 0 < step_s <= self._max_gap_s:
            return clock_s + self._shift_s, False
        self.jumps += 1
        self.last_jump_s = step_s
        self._shift_s -= step_s
        return clock_s + self._shift_s, True


_DISORDER_S = 1.0
