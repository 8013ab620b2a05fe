"""Live feeds as frames: a thread per feed keeps the board up to date, and frames are sampled by the monotonic clock.

A feed that fails is closed and opened again with back-off, while the others go on; its signals grow stale.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from roadloop_agent.drive.frames import Item, Reported
from roadloop_agent.drive.sources.signals.board import Board, Limits, Updates
from roadloop_models.errors import RetryLaterError, RoadloopError

_LOG = logging.getLogger(__name__)
_READ_S = 0.1
_FIRST_LOOK_S = 3.0
"""How long the first frame waits for every feed to have been opened, or refused."""
_TELL_S = 0.5
_TELL = 8
"""How often a connection is asked for its troubles, and how many of them are kept."""
_BACK_OFF_S, _BACK_OFF_MAX_S = 0.5, 10.0


class Connection(Protocol):
    """A feed that is open. One thread uses it."""

    def read(self, timeout_s: float) -> Updates:
        """What came, within `timeout_s`. Raises RetryLaterError where it has to be opened again."""

    def troubles(self) -> Sequence[RoadloopError]:
        """What was passed over since the last time."""

    def close(self) -> None:
        """Give the device back."""


@dataclass(frozen=True)
class LiveFeed:
    """A feed that can be opened: `open` raises RetryLaterError where it is not there now, ConfigError where it never
    will be."""

    name: str
    open: Callable[[], Connection]
    silent_s: float


class Live:
    """All live feeds of a source."""

    def __init__(
        self,
        feeds: Sequence[LiveFeed],
        limits: Sequence[Limits],
        rate_hz: float,
        clock: Callable[[], float],
        back_off_s: float = _BACK_OFF_S,
    ) -> None:
        self._feeds = feeds
        self._limits = limits
        self._period_s = 1 / rate_hz
        self._clock = clock
        self._back_off_s = back_off_s
        self._number = 0
        self.board = Board(limits)

    def frames(self, passed_over: Reported) -> Iterator[Item | None]:
        """SignalFrames at the source's rate, for ever; None while none is due.

        Raises ConfigError where a feed can never be had.
        """
        self.board = board = Board(self._limits)
        lock, left = threading.Lock(), threading.Event()
        readers = [
            _Reader(feed, board=board, lock=lock, left=left, clock=self._clock, back_off_s=self._back_off_s)
            for feed in self._feeds
        ]
        for reader in readers:
            reader.start()
        try:
            for reader in readers:
                reader.tried.wait(_FIRST_LOOK_S)
            due_s = self._clock()
            while True:
                wait_s = due_s - self._clock()
                if wait_s > 0:
                    left.wait(min(wait_s, _READ_S))
                    yield None
                    continue
                for reader in readers:
                    for trouble in reader.collect_troubles():
                        passed_over(trouble)
                now_s = self._clock()
                with lock:
                    frame = board.frame(now_s)
                yield Item(self._number, f"{now_s:.3f} s", frame, now_s, now_s)
                self._number += 1
                # After a suspend the frames that were missed are not made up for.
                due_s = max(due_s + self._period_s, now_s)
        finally:
            left.set()


class _Reader(threading.Thread):
    """Opens a feed, puts on the board what it gives, and opens it again where it fails."""

    def __init__(
        self,
        feed: LiveFeed,
        *,
        board: Board,
        lock: threading.Lock,
        left: threading.Event,
        clock: Callable[[], float],
        back_off_s: float,
    ) -> None:
        super().__init__(name=f"feed-{feed.name}", daemon=True)
        self.tried = threading.Event()
        self._feed = feed
        self._board = board
        self._lock = lock
        self._left = left
        self._clock = clock
        self._back_off_s = back_off_s
        self._down: RoadloopError | None = None
        self._passed_over: list[RoadloopError] = []
        self._came_s = clock()

    def collect_troubles(self) -> list[RoadloopError]:
        """What was passed over since the last time, and why nothing comes now. Raises a ConfigError as it is."""
        passed_over, self._passed_over = self._passed_over, []
        down = self._down
        if down is not None and not isinstance(down, RetryLaterError):
            raise down
        silent_s = self._clock() - self._came_s
        if down is None and silent_s > self._feed.silent_s:
            down = RetryLaterError(f"{self._feed.name}: nothing that is used for {silent_s:.0f} s")
        return passed_over if down is None else [*passed_over, down]

    def run(self) -> None:
        """The thread."""
        wait_s = self._back_off_s
        while not self._left.is_set():
            came_s = self._came_s
            try:
                self._read_until_it_fails()
            except RetryLaterError as error:
                self._fail(error)
            except RoadloopError as error:
                self._fail(error)
                return
            except Exception as error:  # noqa: BLE001 (a driver may raise anything; the feed is opened again)
                self._fail(RetryLaterError(f"{self._feed.name}: {type(error).__name__}: {error}"))
            wait_s = self._back_off_s if self._came_s != came_s else min(2 * wait_s, _BACK_OFF_MAX_S)
            self._left.wait(wait_s)

    def _fail(self, error: RoadloopError) -> None:
        if self._down is None:
            _LOG.error("feed %s: %s", self._feed.name, error)
        self._down = error
        self.tried.set()

    def _read_until_it_fails(self) -> None:
        connection = self._feed.open()
        try:
            self.tried.set()
            told_s = self._clock()
            while not self._left.is_set():
                updates = connection.read(_READ_S)
                now_s = self._clock()
                if now_s >= told_s + _TELL_S:
                    told_s = now_s
                    self._passed_over = (self._passed_over + list(connection.troubles()))[-_TELL:]
                if not updates:
                    continue
                with self._lock:
                    self._board.put(now_s, updates)
                self._came_s = now_s
                if self._down is not None:
                    _LOG.info("feed %s: gives signals again", self._feed.name)
                    self._down = None
        finally:
            connection.close()
