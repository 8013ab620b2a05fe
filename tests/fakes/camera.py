"""A camera as hardware: plugged in or not, giving frames, or hanging in the middle of a read."""

import threading
from collections import deque

import numpy as np
import numpy.typing as npt

from roadloop_agent.drive.sources.camera import Shot
from roadloop_models.errors import RetryLaterError

WAIT_S = 10.0


class FakeCamera:
    """The thing on the cable. Tests plug it and show it pictures; `device` is what a driver opens."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._shots: deque[Shot | None] = deque()
        self._plugged = True
        self._hangs = False
        self.opened = 0
        self.released = 0
        self.reading = 0
        """Reads that have not come back."""

    def device(self) -> "FakeDevice":
        """A driver that is not open yet."""
        return FakeDevice(self)

    def show(self, value: int, size: tuple[int, int] = (48, 64), t_source_s: float | None = None) -> None:
        """One more picture, blue of this value; size is (height, width)."""
        image = np.zeros((*size, 3), dtype=np.uint8)
        image[:, :, 0] = value
        self._put(Shot(image, t_source_s))

    def give(self, image: npt.NDArray[np.uint8]) -> None:
        """This picture, BGR."""
        self._put(Shot(image))

    def garble(self) -> None:
        """One read that gives no picture."""
        self._put(None)

    def unplug(self) -> None:
        """Reads fail and nothing can be opened."""
        with self._changed:
            self._plugged = False
            self._shots.clear()
            self._changed.notify_all()

    def plug(self) -> None:
        """It can be opened again."""
        with self._changed:
            self._plugged = True
            self._changed.notify_all()

    def hang(self, hangs: bool) -> None:
        """While it hangs, no read comes back, of no device."""
        with self._changed:
            self._hangs = hangs
            self._changed.notify_all()

    def wait_opened(self, times: int) -> None:
        """Until it was opened so many times."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.opened >= times, WAIT_S), f"opened {self.opened} of {times}"

    def wait_released(self, times: int) -> None:
        """Until it was given back so many times."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.released >= times, WAIT_S), f"released {self.released}"

    def _put(self, shot: Shot | None) -> None:
        with self._changed:
            self._shots.append(shot)
            self._changed.notify_all()

    def open_one(self) -> None:
        """A driver opens it."""
        with self._changed:
            if not self._plugged:
                raise RetryLaterError("/dev/video0: there is no such device")
            self.opened += 1
            self._changed.notify_all()

    def read_one(self, device: "FakeDevice") -> Shot | None:
        """A driver waits for a frame."""
        with self._changed:
            self.reading += 1
            self._changed.wait_for(
                lambda: not self._hangs and (bool(self._shots) or not self._plugged or device.is_released)
            )
            self.reading -= 1
            return self._shots.popleft() if self._plugged and self._shots else None

    def release_one(self) -> None:
        """A driver gives it back."""
        with self._changed:
            self.released += 1
            self._changed.notify_all()


class FakeDevice:
    """One opening of it: implements the Protocol `Device`."""

    def __init__(self, camera: FakeCamera) -> None:
        self._camera = camera
        self.is_released = False

    def open(self) -> None:
        """Raises RetryLaterError while it is unplugged."""
        self._camera.open_one()

    def read(self) -> Shot | None:
        """Waits as a real one does."""
        return self._camera.read_one(self)

    def release(self) -> None:
        """Without effect on reads of other openings."""
        self.is_released = True
        self._camera.release_one()
