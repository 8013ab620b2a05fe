"""A day of 24 hours that the vehicle counts itself, which wall time only hints at. No I/O.

Hours that no clock here saw (the vehicle was off) are believed from the wall clock, one day at most in the life of a
process: a clock that jumps, however far, ends one day at most, and one that stands still does not stop the count.
"""

from collections.abc import Mapping

DAY_S = 86_400.0
_HINT_S = 2.0
"""Less than this between the clocks is their drift."""


class Day:
    """How old the present day is."""

    def __init__(self, facts: Mapping[str, float]) -> None:
        """`facts`: what `facts()` gave at the end of the last process; empty at the first start."""
        self.age_s = facts.get("day_age_s", 0.0)
        self._wall_s = facts.get("day_wall_s")
        self._mono_s: float | None = None
        self._hint_left_s = DAY_S

    def tick(self, mono_s: float, wall_s: float) -> bool:
        """Time has passed; whether another day has begun. `mono_s` counts suspended time as well (CLOCK_BOOTTIME)."""
        passed_s = 0.0 if self._mono_s is None else max(0.0, mono_s - self._mono_s)
        unseen_s = 0.0 if self._wall_s is None else wall_s - self._wall_s - passed_s
        self._mono_s, self._wall_s = mono_s, wall_s
        if unseen_s >= _HINT_S:
            believed_s = min(unseen_s, self._hint_left_s)
            self._hint_left_s -= believed_s
            passed_s += believed_s
        self.age_s += passed_s
        if self.age_s < DAY_S:
            return False
        self.age_s %= DAY_S
        return True

    def facts(self) -> dict[str, float]:
        """What the next process has to know."""
        wall = {} if self._wall_s is None else {"day_wall_s": self._wall_s}
        return {**wall, "day_age_s": self.age_s}
