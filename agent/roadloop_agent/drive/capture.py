"""One thread per source: it reads at the source's pace and leaves frames in the mailboxes of its slots."""

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from roadloop_agent.drive.frames import Frame, Item, Mailbox, Reported
from roadloop_agent.hardware_config import Pace
from roadloop_models.errors import FailedError, RoadloopError

_LOG = logging.getLogger(__name__)
_WAIT_S = 0.1
_LOG_EVERY_S = 60.0
"""How often it is logged that something was passed over; it is reported every time."""
_SMOOTHING = 0.2
"""Weight of the newest interval in the measured pace of a live source."""


@dataclass
class Subscriber:
    """A slot's mailbox, and how often it wants a frame.

    `share` of the frames that it wants are delivered (1: all, 0: none); the others are shed, and counted.
    """

    mailbox: Mailbox
    period_s: float
    due_s: float = 0.0
    share: float = 1.0
    shed: int = 0
    _credit: float = 0.0

    def admits(self) -> bool:
        """Whether the next wanted frame is delivered: evenly spread, so that half is every second one."""
        self._credit = min(1.0, self._credit + self.share)
        if self._credit < 1.0:
            self.shed += 1
            return False
        self._credit = 0.0
        return True


class Capture:
    """Reads one source.

    Its pace is `rate`: one every `period_s`; `as-consumed`: no sooner, and only when every slot has taken the last one;
    `live`: whenever the source gives one. A live source yields None while it has nothing, so that this thread comes
    round although no frame does.
    """

    def __init__(
        self,
        *,
        name: str,
        open_items: Callable[[Reported], Iterable[Item | None]],
        period_s: float,
        pace: Pace,
        loop: bool,
        subscribers: list[Subscriber],
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
        reopen_s: float = 0.5,
        reopen_max_s: float = 10.0,
    ) -> None:
        """`open_items` gets the function that a source tells of what it passes over, and goes on.

        A source that fails is opened again after `reopen_s`, doubled each time up to `reopen_max_s`.
        """
        self.name = name
        self._open_items = open_items
        self._period_s = period_s
        self._pace = pace
        self._loop = loop
        self._subscribers = subscribers
        self._clock = clock
        self._wall_ms = wall_ms
        self._reopen_s = reopen_s
        self._reopen_max_s = reopen_max_s
        self._wait_s = reopen_s
        self._last: Frame | None = None
        self._down: RoadloopError | None = None
        self._passed_over: RoadloopError | None = None
        self._log_due_s = 0.0

    def collect_error(self) -> RoadloopError | None:
        """Why there are no frames now; else the last thing that was passed over since the last call."""
        passed_over, self._passed_over = self._passed_over, None
        return self._down or passed_over

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Until `stop`, or the end of a source that does not loop. A source that fails is opened again."""
        while not stop.is_set():
            try:
                self._read(stop, beat)
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
        if self._down is None or str(self._down) != str(error):
            _LOG.error("source %s: %s", self.name, error)
        self._down = error
        self._pause(self._wait_s, stop, beat)
        self._wait_s = min(2 * self._wait_s, self._reopen_max_s)

    def _pass_over(self, error: RoadloopError) -> None:
        if self._clock() >= self._log_due_s:
            _LOG.warning("source %s: %s", self.name, error)
            self._log_due_s = self._clock() + _LOG_EVERY_S
        self._passed_over = error

    def _read(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        due_s = self._clock()
        for item in self._open_items(self._pass_over):
            if self._pace == "live":
                beat()
            else:
                self._pause(due_s - self._clock(), stop, beat)
            if self._pace == "as-consumed":
                self._wait_until_taken(stop, beat)
            if stop.is_set():
                return
            if item is None:
                continue
            now_s = self._clock()
            t_mono_s = now_s if item.t_mono_s is None else item.t_mono_s
            self._deliver(Frame(item.number, t_mono_s, self._wall_ms(), item.data, item.t_source_s))
            self._recovered()
            # A source that fell behind goes on from now: frames in a burst would only be dropped.
            due_s = max(due_s + self._period_s, now_s)

    def _recovered(self) -> None:
        if self._down is not None:
            _LOG.info("source %s: gives frames again", self.name)
            self._down = None
        self._wait_s = self._reopen_s

    def _deliver(self, frame: Frame) -> None:
        if self._pace == "live":
            self._look_at_gap(frame)
        for subscriber in self._subscribers:
            if self._pace != "as-consumed":
                if subscriber.due_s - frame.t_mono_s > 0.5 * self._period_s:
                    continue
                subscriber.due_s = max(subscriber.due_s, frame.t_mono_s - subscriber.period_s) + subscriber.period_s
                if not subscriber.admits():
                    continue
            subscriber.mailbox.put_latest(frame)

    def _look_at_gap(self, frame: Frame) -> None:
        """Measure the source's pace, and count what it gave while this thread was busy."""
        last, self._last = self._last, frame
        if last is None:
            return
        missed = frame.number - last.number - 1
        self._period_s += _SMOOTHING * ((frame.t_mono_s - last.t_mono_s) / (missed + 1) - self._period_s)
        for subscriber in self._subscribers:
            overdue_s = frame.t_mono_s - subscriber.due_s
            if missed and overdue_s > 0:
                wanted = missed if subscriber.period_s <= 0 else int(overdue_s / subscriber.period_s)
                subscriber.mailbox.count_dropped(min(missed, wanted))

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
