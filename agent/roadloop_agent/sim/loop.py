"""One thread that serves thousands of sockets and timers: epoll, because select takes no descriptor above 1023."""

import heapq
import itertools
import logging
import os
import select
from collections import deque
from collections.abc import Callable

_LOG = logging.getLogger(__name__)
_LONGEST_WAIT_S = 0.5


class Loop:
    """`soon` may be called from any thread, all else from the loop's own.

    A call that fails is logged and counted in `faults`: one twin's must not end the others.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: monotonic seconds."""
        self.clock = clock
        self.faults = 0
        self.late_s = 0.0
        """The longest that a timer had to wait for its turn: much of it says that this machine is too slow."""
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[int], None]] = {}
        self._calls: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)

    def soon(self, call: Callable[[], None]) -> None:
        """Call it in the loop's thread."""
        self._calls.append(call)
        os.eventfd_write(self._wake, 1)

    def at(self, due_s: float, call: Callable[[], None]) -> None:
        """Call it at that time."""
        heapq.heappush(self._timers, (due_s, next(self._numbers), call))

    def after(self, wait_s: float, call: Callable[[], None]) -> None:
        """Call it after that time."""
        self.at(self.clock() + wait_s, call)

    def watch(self, descriptor: int, ready: Callable[[int], None], *, write: bool) -> None:
        """Call `ready` with epoll's flags when there is something to read, and with `write` when there is room."""
        self._watched[descriptor] = ready
        self._epoll.register(descriptor, _flags(write))

    def change(self, descriptor: int, *, write: bool) -> None:
        """Whether room to write is of interest."""
        if descriptor in self._watched:
            self._epoll.modify(descriptor, _flags(write))

    def forget(self, descriptor: int) -> None:
        """Watch it no more; before it is closed, because its number is given to the next one."""
        if self._watched.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def run(self, until: Callable[[], bool]) -> None:
        """Until that is so."""
        while not until():
            self._turn()

    def close(self) -> None:
        """Give the descriptors back."""
        self._epoll.close()
        os.close(self._wake)

    def _turn(self) -> None:
        for descriptor, flags in self._epoll.poll(self._wait_s()):
            if descriptor == self._wake:
                os.eventfd_read(self._wake)
            elif (ready := self._watched.get(descriptor)) is not None:
                self._do(lambda ready=ready, flags=flags: ready(flags))  # type: ignore[misc]
        for _ in range(len(self._calls)):
            self._do(self._calls.popleft())
        now_s = self.clock()
        while self._timers and self._timers[0][0] <= now_s:
            due_s, _, call = heapq.heappop(self._timers)
            self.late_s = max(self.late_s, now_s - due_s)
            self._do(call)

    def _wait_s(self) -> float:
        if self._calls:
            return 0.0
        due_s = self._timers[0][0] - self.clock() if self._timers else _LONGEST_WAIT_S
        return min(max(0.0, due_s), _LONGEST_WAIT_S)

    def _do(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:  # noqa: BLE001 (one twin's fault must not end the others; it is counted)
            self.faults += 1
            _LOG.exception("a twin's turn")


def _flags(write: bool) -> int:
    return select.EPOLLIN | (select.EPOLLOUT if write else 0)
