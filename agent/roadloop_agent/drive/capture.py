"""One thread per source: it reads at the source's pace and leaves frames in the mailboxes of its slots."""

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from roadloop_agent.drive.frames import Frame, Item, Mailbox
from roadloop_models.errors import FailedError, RoadloopError

_LOG = logging.getLogger(__name__)
_REOPEN_S = 2.0
_WAIT_S = 0.1


@dataclass
class Subscriber:
    """A slot's mailbox, and how often it wants a frame."""

    mailbox: Mailbox
    period_s: float
    due_s: float = 0.0


class Capture:
    """Reads one source. `lossless`: the next frame only when every slot has taken the last one."""

    def __init__(
        self,
        *,
        name: str,
        open_items: Callable[[], Iterable[Item]],
        rate_hz: float,
        loop: bool,
        lossless: bool,
        subscribers: list[Subscriber],
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
    ) -> None:
        self.name = name
        self.error: RoadloopError | None = None
        self._open_items = open_items
        self._period_s = 1.0 / rate_hz
        self._loop = loop
        self._lossless = lossless
        self._subscribers = subscribers
        self._clock = clock
        self._wall_ms = wall_ms

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Until `stop`, or the end of a source that does not loop. A source that fails is opened again."""
        while not stop.is_set():
            try:
                self._replay(stop, beat)
                self.error = None
            except RoadloopError as error:
                self._failed(error, stop, beat)
                continue
            except Exception as error:  # noqa: BLE001 (a decoder may raise anything; the source is opened again)
                self._failed(FailedError(f"{type(error).__name__}: {error}"), stop, beat)
                continue
            if not self._loop:
                break
        for subscriber in self._subscribers:
            subscriber.mailbox.end()
        while not stop.wait(_WAIT_S):
            beat()

    def _failed(self, error: RoadloopError, stop: threading.Event, beat: Callable[[], None]) -> None:
        if self.error is None:
            _LOG.error("source %s: %s", self.name, error)
        self.error = error
        self._pause(_REOPEN_S, stop, beat)

    def _replay(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        due_s = self._clock()
        for item in self._open_items():
            self._pause(due_s - self._clock(), stop, beat)
            if self._lossless:
                self._wait_until_taken(stop, beat)
            if stop.is_set():
                return
            now_s = self._clock()
            self._deliver(Frame(item.number, now_s, self._wall_ms(), item.data, item.t_source_s))
            # A source that fell behind goes on from now: frames in a burst would only be dropped.
            due_s = max(due_s + self._period_s, now_s)

    def _deliver(self, frame: Frame) -> None:
        for subscriber in self._subscribers:
            early_s = subscriber.due_s - frame.t_mono_s
            if not self._lossless and early_s > 0.5 * self._period_s:
                continue
            subscriber.due_s = max(subscriber.due_s, frame.t_mono_s - subscriber.period_s) + subscriber.period_s
            subscriber.mailbox.put_latest(frame)

    def _wait_until_taken(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        for subscriber in self._subscribers:
            while not stop.is_set() and not subscriber.mailbox.wait_until_taken(_WAIT_S):
                beat()

    def _pause(self, seconds: float, stop: threading.Event, beat: Callable[[], None]) -> None:
        until_s = self._clock() + seconds
        while True:
            beat()
            left_s = until_s - self._clock()
            if left_s <= 0 or stop.wait(min(left_s, _WAIT_S)):
                return
