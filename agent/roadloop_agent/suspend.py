"""Suspend and resume: what must not count as time that passed, and what must be noticed at once."""

import threading
from collections.abc import Callable

SLEPT_S = 5.0
"""Who is asked several times a second and was not for so long was suspended, or stopped with all other processes."""
NOTICED_S = 10.0


class AwakeClock:
    """Monotonic seconds without those in which nothing ran: a trial that was suspended has not run out of time.

    Asked at least once a second by one thread; any thread may ask.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last_s = clock()
        self._asleep_s = 0.0

    def __call__(self) -> float:
        """Seconds awake, from an arbitrary start."""
        with self._lock:
            now_s = self._clock()
            gap_s, self._last_s = now_s - self._last_s, now_s
            if gap_s > SLEPT_S:
                self._asleep_s += gap_s
            return now_s - self._asleep_s


class SleepWatch:
    """Notices a suspend afterwards. `clock` has to go on in it: CLOCK_BOOTTIME. One thread asks, each second or so."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last_s = clock()

    def slept_s(self) -> float:
        """How long nothing ran before this call; 0 where it was only a moment."""
        now_s = self._clock()
        gap_s, self._last_s = now_s - self._last_s, now_s
        return gap_s if gap_s > NOTICED_S else 0.0
