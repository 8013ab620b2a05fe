"""What the vehicle knows of itself when a release waits for its moment: the time, whether it is parked, consent."""

from collections.abc import Callable
from datetime import datetime

from roadloop_agent.ipc import FromDrive, Parked
from roadloop_agent.update.conditions import Facts
from roadloop_agent.update.consent import Consents

PARKED_STALE_S = 10.0
"""Drive says every second or so whether the vehicle is parked; after so long without a word nobody knows."""
JUMP_S = 2.0
STEADY_S = 60.0
"""How long the clock must not have jumped before it is believed: one that is being set is not."""


class LocalClock:
    """Local time, where it can be believed: not before what is known to be past, and not just after a jump.

    A clock that was set wrong and has stood so since is believed: nothing on a vehicle without a network tells it from
    a right one, unless it is behind the floor.
    """

    def __init__(
        self, wall: Callable[[], datetime], uptime: Callable[[], float], floor: Callable[[], datetime | None]
    ) -> None:
        """`wall`: with its time zone, the vehicle's own; `uptime`: seconds, also while suspended."""
        self._wall = wall
        self._uptime = uptime
        self._floor = floor
        self._last: tuple[float, float] | None = None
        self._steady_since_s = 0.0

    def __call__(self) -> datetime | None:
        """The local time, or None where none can be believed."""
        now, up_s = self._wall(), self._uptime()
        last, self._last = self._last, (now.timestamp(), up_s)
        if last is None or abs((now.timestamp() - last[0]) - (up_s - last[1])) > JUMP_S:
            self._steady_since_s = up_s
        floor = self._floor()
        if up_s - self._steady_since_s < STEADY_S or (floor is not None and now < floor):
            return None
        return now


class VehicleSurroundings:
    """See the module. Messages of drive come from another thread."""

    def __init__(self, consents: Consents, local: Callable[[], datetime | None], clock: Callable[[], float]) -> None:
        """`local`: a LocalClock; `clock`: monotonic."""
        self._consents = consents
        self._local = local
        self._clock = clock
        self._parked: tuple[bool | None, float] = (None, clock())

    def hear(self, message: FromDrive) -> None:
        """A message of drive; it takes what is its own."""
        if isinstance(message, Parked):
            self._parked = (message.parked, self._clock())

    def __call__(self) -> Facts:
        """What is known now."""
        parked, heard_s = self._parked
        return Facts(
            local=self._local(),
            parked=parked if self._clock() - heard_s <= PARKED_STALE_S else None,
            consents=self._consents.words(),
        )
