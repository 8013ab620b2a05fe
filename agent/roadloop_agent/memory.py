"""Hands memory back that only a start needed: most of the code of a large library runs once, while it is loaded.

Such pages are clean copies of files: whatever is needed again comes back from the page cache by a minor fault.
"""

import ctypes
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path

_LOG = logging.getLogger(__name__)
SETTLED_S = 4.0
"""How long after the last start of something the code that it took counts as no longer needed."""
_MADV_DONTNEED = 4


class Tidy:
    """Hands back once each time when all has been quiet for a while. Polled by the thread that owns it."""

    def __init__(self, hand_back: Callable[[], None], clock: Callable[[], float]) -> None:
        self._hand_back = hand_back
        self._clock = clock
        self._due_s = clock() + SETTLED_S

    def started(self) -> None:
        """Something was loaded."""
        self._due_s = self._clock() + SETTLED_S

    def poll(self) -> None:
        """Hand back where it is time."""
        if self._clock() >= self._due_s:
            self._due_s = math.inf
            self._hand_back()


def hand_back() -> None:
    """Give the code of shared libraries and the free part of the heap back to the kernel (Linux, glibc)."""
    libc = ctypes.CDLL(None, use_errno=True)
    for start, end in library_code(Path("/proc/self/maps").read_text(encoding="utf-8")):
        if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED) != 0:
            _LOG.debug("madvise: errno %d", ctypes.get_errno())  # it stays where it is, no more
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(ctypes.c_size_t(0))


def library_code(maps: str) -> Iterator[tuple[int, int]]:
    """(start, end) of every mapping of /proc/PID/maps that holds code of a shared library and cannot be written.

    Not the read-only data: the loader may have written relocations there before it was protected.
    """
    for line in maps.splitlines():
        addresses, protection, _, _, inode, *path = line.split(maxsplit=5)
        if protection == "r-xp" and inode != "0" and path and ".so" in Path(path[0]).name:
            start, end = addresses.split("-")
            yield int(start, 16), int(end, 16)
