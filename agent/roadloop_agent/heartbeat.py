"""Signs of life from a child process to the supervisor: one byte a second while every part of it makes progress."""

import os
import threading
from collections.abc import Callable, Iterable

BEAT_PERIOD_S = 1.0


class Heartbeat:
    """Writes a byte when each part has been seen since the last one. Safe to use from several threads."""

    def __init__(self, fd: int | None, parts: Iterable[str], clock: Callable[[], float]) -> None:
        """`fd`: the pipe to the supervisor (None: nobody listens). `parts`: the threads that must all be alive."""
        self._fd = fd
        self._parts = set(parts)
        self._clock = clock
        self._lock = threading.Lock()
        self._missing = set(self._parts)
        self._last_s = -BEAT_PERIOD_S
        if fd is not None:
            os.set_blocking(fd, False)

    def beat(self, part: str) -> None:
        """This part has come round once more."""
        with self._lock:
            self._missing.discard(part)
            now_s = self._clock()
            if self._missing or now_s - self._last_s < BEAT_PERIOD_S:
                return
            self._last_s = now_s
            self._missing = set(self._parts)
            if self._fd is None:
                return
            try:
                os.write(self._fd, b".")
            except BlockingIOError:
                pass  # full of beats that the supervisor has not read yet: it has enough
            except OSError:
                self._fd = None
