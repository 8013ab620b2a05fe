"""What time it is at least, on a vehicle whose clock may be wrong.

The latest of its own clock, the day this agent was built, what it knew when its metadata last held, and what the
director said to a question that nobody can have foreseen. The last is kept in memory alone: who steals the director's
key must not be able to move a vehicle's time for good.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

BUILT = datetime(2026, 11, 1, tzinfo=UTC)
"""No later than this version was made; raised with each version."""
BEGINNING = datetime.fromtimestamp(0, UTC)


class TrustedTime:
    """See the module; one for each start of the agent. `clock` is the vehicle's own, `mono` seconds that only rise."""

    def __init__(self, clock: Callable[[], datetime], mono: Callable[[], float], built: datetime = BUILT) -> None:
        self._clock = clock
        self._mono = mono
        self._built = built
        self._told: tuple[datetime, float] | None = None

    def clock(self) -> datetime:
        """What the vehicle's own clock says."""
        return self._clock()

    def now(self, floor: datetime = BEGINNING) -> datetime:
        """The time, no earlier than `floor`."""
        return max(self._clock(), self._built, floor, self._since_told())

    def must_ask(self, floor: datetime) -> bool:
        """Whether the director has to be asked: once in each start, and whenever the clock is known to be wrong."""
        return self._told is None or self._clock() < max(self._built, floor)

    def told(self, time: datetime) -> None:
        """What the director said just now. Only the newest word counts."""
        self._told = time, self._mono()

    def heard(self) -> datetime | None:
        """The time by what the director said in this start; None where it was not asked yet."""
        return None if self._told is None else self._since_told()

    def _since_told(self) -> datetime:
        if self._told is None:
            return BEGINNING
        time, at_s = self._told
        return time + timedelta(seconds=self._mono() - at_s)
