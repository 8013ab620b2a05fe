"""Decisions for other software on the vehicle: handed to link while somebody there listens, and never waited for."""

import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from roadloop_agent.ipc import Decided, encode_ipc
from roadloop_models.errors import MessageError

_LOG = logging.getLogger(__name__)
QUEUED = 256
Announce = Callable[[str, int, int, Callable[[], dict[str, Any]]], None]
"""Slot, release, wall time of the frame (ms), and what makes the decision JSON-able."""


class Sender(Protocol):
    """The pipe."""

    def try_send(self, payload: bytes) -> bool:
        """Send without waiting; False where there is no room."""


class Announcer:
    """Slots announce in their threads; the main thread, which `fileno` wakes, encodes and sends."""

    def __init__(self, pipe: Sender, boot: int) -> None:
        self._pipe = pipe
        self._boot = boot
        self._queue: deque[Decided] = deque()
        self._lock = threading.Lock()
        self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._dropped = 0
        self.listened = False
        """Whether anybody listens. Set by the main thread."""

    def fileno(self) -> int:
        """Readable when there is something to send."""
        return self._event_fd

    def announce(self, slot: str, release: int, t_ms: int, decision: Callable[[], dict[str, Any]]) -> None:
        """Tell whoever listens; where nobody does this costs nothing. `decision` makes what is told, JSON-able."""
        if not self.listened:
            return
        with self._lock:
            if len(self._queue) >= QUEUED:
                self._dropped += 1
                return
        decided = Decided(
            boot=self._boot, slot=slot, release=release, t_ms=t_ms, dropped=self._dropped, decision=decision()
        )
        self._queue.append(decided)
        os.eventfd_write(self._event_fd, 1)

    def send(self) -> None:
        """Send what was announced; what the pipe has no room for is dropped and counted."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event_fd)
        while self._queue:
            decided = self._queue.popleft()
            try:
                sent = self._pipe.try_send(encode_ipc(decided))
            except MessageError as error:
                _LOG.error("slot %s: its decision is not announced: %s", decided.slot, error)
                sent = False
            if not sent:
                with self._lock:
                    self._dropped += 1
