"""Is the vehicle parked? Told from the speed that its own signals say, where they say any."""

import math
import threading
from collections.abc import Callable, Iterable, Iterator

from roadloop_agent.drive.frames import Item, Reported
from roadloop_models.signals import Quality, SignalFrame

SPEEDS = ("Vehicle.Speed", "Vehicle.OBD.Speed")
"""Where a speed is looked for, in this order."""
STANDS_MPS = 0.3
FRESH_S = 5.0
"""A speed that is older says nothing."""


class Parking:
    """Source threads show it frames; the main thread asks. Standing for `after_s` without a break is parked."""

    def __init__(self, after_s: float, clock: Callable[[], float]) -> None:
        self._after_s = after_s
        self._clock = clock
        self._lock = threading.Lock()
        self._seen_s = -math.inf
        self._stands_since_s: float | None = None

    def show(self, frame: SignalFrame) -> None:
        """A frame of signals. One without a speed changes nothing."""
        speed_mps = next((frame.values[path] for path in SPEEDS if frame.quality.get(path) is Quality.OK), None)
        if speed_mps is None:
            return
        now_s = self._clock()
        with self._lock:
            stands = abs(speed_mps) < STANDS_MPS
            broken = now_s - self._seen_s > FRESH_S
            self._seen_s = now_s
            if not stands:
                self._stands_since_s = None
            elif self._stands_since_s is None or broken:
                self._stands_since_s = now_s

    def parked(self) -> bool | None:
        """None where nothing says."""
        now_s = self._clock()
        with self._lock:
            if now_s - self._seen_s > FRESH_S:
                return None
            return self._stands_since_s is not None and now_s - self._stands_since_s >= self._after_s

    def watching(
        self, open_items: Callable[[Reported], Iterable[Item | None]]
    ) -> Callable[[Reported], Iterable[Item | None]]:
        """The same source, seen by this as well."""

        def opened(reported: Reported) -> Iterator[Item | None]:
            for item in open_items(reported):
                if item is not None:
                    self.show(item.data)
                yield item

        return opened
