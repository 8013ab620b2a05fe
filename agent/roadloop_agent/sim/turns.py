"""At most a few workers compute at a time; who waits for something lets another one go on.

Hundreds of threads that want the interpreter at once spend more time on asking for it than on having it.
"""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from roadloop_agent.update.fetch import INBOX_BLOCKS
from roadloop_models.contract.messages import FileBlock


class Turns:
    """See the module."""

    def __init__(self, count: int) -> None:
        self._free = threading.Semaphore(count)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Compute within the block."""
        with self._free:
            yield

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Wait for something within the block, which is itself within `taken`."""
        self._free.release()
        try:
            yield
        finally:
            self._free.acquire()


class PatientInbox(queue.Queue[tuple[str, int, FileBlock]]):
    """What a download waits at: meanwhile it is another's turn."""

    def __init__(self, turns: Turns) -> None:
        super().__init__(INBOX_BLOCKS)
        self._turns = turns

    def get(self, block: bool = True, timeout: float | None = None) -> tuple[str, int, FileBlock]:
        """See Queue."""
        if not block:
            return super().get(block=False)
        with self._turns.aside():
            return super().get(timeout=timeout)
