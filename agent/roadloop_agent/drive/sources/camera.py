"""A live camera: its latest frame, whatever the device does.

A thread of its own waits in the device's read(), which may hang, fail or give nonsense; who iterates only looks at what
it left. A read that does not come back is left behind with its device, and the device is opened anew.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from roadloop_agent.drive.frames import Frame, Item, Mailbox, Reported
from roadloop_agent.drive.sources.images import to_rgb, turned
from roadloop_models.errors import DataError, FailedError, RetryLaterError, RoadloopError
from roadloop_models.preprocess import ImageArray

_LOOK_S = 0.1
_BAD_READS = 5
"""So many reads in a row may give no frame: cameras on USB lose one now and then."""
_GRACE_S = 0.5
"""How long a read that is no longer wanted may take to come back; most do with the next frame."""
_LEFT_BEHIND = 3
"""So many reads that never came back are borne; then the device is not opened again before one of them returns."""
_PROBE_STEP = 8
"""Every so many pixels are compared to see whether the picture has changed at all."""


@dataclass(frozen=True)
class Shot:
    """What one read gave: uint8 BGR [height, width, 3], and the device's own time of it, where it has one."""

    image: npt.NDArray[np.uint8]
    t_source_s: float | None = None


class Device(Protocol):
    """A camera's driver. One thread calls it; any call may hang."""

    def open(self) -> None:
        """Raises RetryLaterError where it cannot be had now, ConfigError where it never can."""

    def read(self) -> Shot | None:
        """The next frame, waiting for it; None where there is none."""

    def release(self) -> None:
        """Give it back; without effect where it was not opened."""


class Camera:
    """Opened once per `frames`; it may be opened again and again. `open_device` makes a device that is not open yet."""

    def __init__(
        self,
        open_device: Callable[[], Device],
        *,
        open_timeout_s: float,
        timeout_s: float,
        frozen_s: float | None,
        rotate: int,
        clock: Callable[[], float],
    ) -> None:
        """`rotate`: so many degrees clockwise, a multiple of 90."""
        self._open_device = open_device
        self._open_timeout_s = open_timeout_s
        self._timeout_s = timeout_s
        self._frozen_s = frozen_s
        self._quarter_turns = rotate // 90
        self._clock = clock
        self._left_behind: list[_Reader] = []
        self._number = 0

    def frames(self, passed_over: Reported) -> Iterator[Item | None]:
        """Its frames as uint8 RGB [height, width, 3], numbered through all openings; None where there is none yet.

        Raises RetryLaterError where the device is gone, hangs or freezes, ConfigError where it cannot ever be had.
        """
        self._left_behind = [reader for reader in self._left_behind if reader.is_alive()]
        if len(self._left_behind) >= _LEFT_BEHIND:
            raise RetryLaterError(f"hangs in {len(self._left_behind)} reads; it is opened again when one comes back")
        reader = _Reader(self._open_device(), self._number, passed_over, self._clock)
        reader.start()
        try:
            yield from self._watched(reader)
        finally:
            reader.leave()
            reader.join(_GRACE_S)
            self._number = reader.number
            self._left_behind.append(reader)

    def _watched(self, reader: "_Reader") -> Iterator[Item | None]:
        still = _Stillness(self._frozen_s)
        waited_s, timeout_s, which = 0.0, self._open_timeout_s, "first"
        while True:
            looked_s = self._clock()
            frame = reader.latest.take(_LOOK_S)
            if frame is not None:
                waited_s, timeout_s, which = 0.0, self._timeout_s, "new"
                still.look(frame)
                image = turned(to_rgb(frame.data), self._quarter_turns)
                yield Item(frame.number, f"#{frame.number}", image, frame.t_source_s, frame.t_mono_s)
                continue
            # A process that was stopped for an hour has not waited for an hour: the reader was stopped too.
            waited_s += min(self._clock() - looked_s, 2 * _LOOK_S)
            if reader.error is not None:
                raise reader.error
            if waited_s > timeout_s:
                raise RetryLaterError(f"no {which} frame for {timeout_s:g} s")
            yield None


class _Stillness:
    """Notices a picture that never changes: a real sensor has noise."""

    def __init__(self, frozen_s: float | None) -> None:
        self._frozen_s = frozen_s
        self._probe: ImageArray | None = None
        self._since_s = 0.0

    def look(self, frame: Frame) -> None:
        """Raises RetryLaterError where this frame and all before it for `frozen_s` are the same."""
        if self._frozen_s is None:
            return
        probe = frame.data[::_PROBE_STEP, ::_PROBE_STEP]
        if self._probe is None or not np.array_equal(probe, self._probe):
            self._probe, self._since_s = probe.copy(), frame.t_mono_s
        elif frame.t_mono_s - self._since_s >= self._frozen_s:
            raise RetryLaterError(f"the picture has not changed for {self._frozen_s:g} s: the camera is frozen")


class _Reader(threading.Thread):
    """Opens a device, reads it until it ends or is left, and gives it back."""

    def __init__(self, device: Device, number: int, passed_over: Reported, clock: Callable[[], float]) -> None:
        super().__init__(name="camera-reader", daemon=True)
        self.latest = Mailbox()
        self.error: RoadloopError | None = None
        self.number = number
        self._device = device
        self._passed_over = passed_over
        self._clock = clock
        self._left = threading.Event()

    def leave(self) -> None:
        """Nobody looks any more; what this thread hangs in may come back when it likes."""
        self._left.set()

    def run(self) -> None:
        """The thread."""
        try:
            self._device.open()
            self._read()
        except RoadloopError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 (a driver may raise anything; the camera is opened again)
            self.error = FailedError(f"{type(error).__name__}: {error}")
        finally:
            self._device.release()

    def _read(self) -> None:
        bad_reads = 0
        while not self._left.is_set():
            shot = self._device.read()
            if self._left.is_set():
                return
            if shot is None:
                bad_reads += 1
                if bad_reads > _BAD_READS:
                    raise RetryLaterError("gives no more frames; is it still plugged in and switched on?")
                continue
            if bad_reads:
                self._passed_over(DataError(f"{bad_reads} frames before #{self.number} could not be read"))
                bad_reads = 0
            self.latest.put_latest(Frame(self.number, self._clock(), 0, shot.image, shot.t_source_s))
            self.number += 1
