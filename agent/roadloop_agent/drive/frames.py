"""Frames, and how a source's thread hands them to a slot's."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from roadloop_models.errors import RoadloopError

Reported = Callable[[RoadloopError], None]
"""Told of what a source passes over (a damaged frame) before it goes on."""


def refuse(error: RoadloopError) -> None:
    """Pass nothing over: for who wants all of a file or none."""
    raise error


@dataclass(frozen=True)
class Item:
    """One thing that a source has: its own number of it, a name for people, and the data of the task."""

    number: int
    name: str
    data: Any
    t_source_s: float | None = None
    """When it was, by the source's own clock; None where it has none."""
    t_mono_s: float | None = None
    """When it came, where the source has a thread of its own that saw it come; None: when it is taken."""


@dataclass(frozen=True)
class Frame:
    """An item at the moment it was captured. `t_ms` is wall time: data, never compared with anything."""

    number: int
    t_mono_s: float
    t_ms: int
    data: Any
    t_source_s: float | None = None
    """When it was by the source's own clock: what durations between frames of a recording are."""


class Mailbox:
    """Room for one frame between a source and a slot."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._dropped = 0
        self._ended = False

    def put_latest(self, frame: Frame) -> None:
        """Leave the newest frame; one that nobody took is dropped and counted."""
        with self._changed:
            self._dropped += self._frame is not None
            self._frame = frame
            self._changed.notify()

    def count_dropped(self, frames: int) -> None:
        """Count frames that were lost before they came here."""
        with self._changed:
            self._dropped += frames

    def wait_until_taken(self, timeout_s: float) -> bool:
        """Whether the slot has taken the last frame, waiting for at most `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._frame is None, timeout_s)

    def take(self, timeout_s: float) -> Frame | None:
        """The newest frame, waiting for at most `timeout_s`; None where there is none."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None, timeout_s)
            frame, self._frame = self._frame, None
            self._changed.notify()
            return frame

    def end(self) -> None:
        """The source has nothing more to give."""
        with self._changed:
            self._ended = True

    @property
    def dropped(self) -> int:
        """Frames dropped so far."""
        return self._dropped

    @property
    def idle(self) -> bool:
        """Whether the source has ended and its last frame was taken."""
        return self._ended and self._frame is None
