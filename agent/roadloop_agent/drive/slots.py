"""A slot: one inference thread that takes frames from its source's mailbox and turns them into telemetry."""

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from roadloop_agent.campaigns.keeper import Keeper, Seen
from roadloop_agent.config import SlotTable
from roadloop_agent.drive.announcer import Announce
from roadloop_agent.drive.frames import Frame, Mailbox
from roadloop_agent.drive.handlers import Handler, MakeRows, Outcome
from roadloop_agent.drive.observer import Observer
from roadloop_agent.drive.outbox import Outbox
from roadloop_agent.drive.pipeline import Model
from roadloop_agent.drive.regulator import Pace, Work
from roadloop_agent.drive.roll import CaptureRoll, Shot
from roadloop_agent.drive.shadow.host import Installed, Shadow
from roadloop_models.contract.messages import ErrorInfo, ReleaseRef
from roadloop_models.errors import RoadloopError

_LOG = logging.getLogger(__name__)
_WAIT_S = 0.5


@dataclass
class Tally:
    """What a slot did with one version since the last look."""

    ref: ReleaseRef | None
    decisions: int = 0
    errors: int = 0
    latency_sum_us: float = 0.0
    latency_max_us: float = 0.0
    confidence_sum: float = 0.0
    confidence_count: int = 0
    confidence_min: float = math.inf
    last_error: ErrorInfo | None = None

    def add(self, latency_us: float, confidence: float | None) -> None:
        """Count one decision."""
        self.decisions += 1
        self.latency_sum_us += latency_us
        self.latency_max_us = max(self.latency_max_us, latency_us)
        if confidence is not None:
            self.confidence_sum += confidence
            self.confidence_min = min(self.confidence_min, confidence)
            self.confidence_count += 1

    @property
    def latency_mean_us(self) -> float:
        """Mean latency; 0 without decisions."""
        return self.latency_sum_us / self.decisions if self.decisions else 0.0

    @property
    def confidence_mean(self) -> float | None:
        """Mean confidence; None where the task has none."""
        return self.confidence_sum / self.confidence_count if self.confidence_count else None


@dataclass
class _Board:
    """What the slot's thread and the main thread share."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    offered: Model | None = None
    running: Model | None = None
    tally: Tally = field(default_factory=lambda: Tally(None))
    finished: list[Tally] = field(default_factory=list)


class Slot:
    """See the module. Another version is offered by the main thread and taken at a frame boundary."""

    def __init__(
        self,
        *,
        name: str,
        table: SlotTable,
        handler: Handler,
        mailbox: Mailbox,
        outbox: Outbox,
        announce: Announce,
        roll: CaptureRoll,
        clock: Callable[[], float],
        deadline_s: float | None = None,
        observer: Observer | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        """`deadline_s`: a frame that is older when it is taken is given up; None: any age will do.

        `observer` hears the signals of each decision; None: nobody watches for drift. `keeper` sees every frame; None:
        there are no campaigns.
        """
        self.name = name
        self.table = table
        self.work = Work()
        self._deadline_s = deadline_s
        self._handler = handler
        self._mailbox = mailbox
        self._outbox = outbox
        self._announce = announce
        self._roll = roll
        self._clock = clock
        self._observer = observer
        self._keeper = keeper
        self._board = _Board()
        self.frames = 0
        self.shadow: Shadow | None = None
        """Whom this slot's thread gives what it has decided about. Set by the main thread."""

    def offer(self, model: Model) -> None:
        """Run this from the next frame on."""
        with self._board.lock:
            replaced, self._board.offered = self._board.offered, model
        if replaced is not None:
            replaced.close()

    @property
    def running(self) -> Model | None:
        """The model in use."""
        return self._board.running

    @property
    def running_or_offered(self) -> Model | None:
        """The model in use, or before the first frame the one that will be."""
        with self._board.lock:
            return self._board.offered or self._board.running

    @property
    def incumbent(self) -> Installed | None:
        """The release in use, for who runs in its shadow."""
        model = self._board.running
        return None if model is None or model.ref is None else Installed(model.ref, model.bundle.directory)

    @property
    def dropped(self) -> int:
        """Frames that the slot was too slow for, so far."""
        return self._mailbox.dropped

    def may_capture(self) -> bool:
        """Whether another captured frame would be sent."""
        return self._roll.has_room(self.name, self._clock())

    @property
    def idle(self) -> bool:
        """Whether the source has ended and every frame of it was taken."""
        return self._mailbox.idle

    def collect(self) -> list[Tally]:
        """What was counted since the last call: one tally for each version that ran, the present one last."""
        board = self._board
        with board.lock:
            tallies = [*board.finished, board.tally]
            board.finished, board.tally = [], Tally(board.tally.ref)
        return tallies

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """The inference thread, until `stop`."""
        while not stop.is_set():
            beat()
            self._swap()
            frame = self._mailbox.take(_WAIT_S)
            if frame is None:
                continue
            self.work.frames += 1
            if self._is_late(frame):
                self.work.expired += 1
            else:
                self._take(frame)
        if self._board.running is not None:
            self._board.running.close()

    def _swap(self) -> None:
        board = self._board
        if board.offered is None:
            return
        with board.lock:
            model, board.offered = board.offered, None
            before, board.running = board.running, model
            board.finished.append(board.tally)
            board.tally = Tally(model.ref if model is not None else None)
        if before is not None and before is not model:
            before.close()

    def _take(self, frame: Frame) -> None:
        model = self._board.running
        self.frames += 1
        try:
            outcome = self._handler.handle(frame, model, self)
            self._report(frame, model, outcome)
        except RoadloopError as error:
            self._fail(error.code, str(error))
        except Exception as error:  # noqa: BLE001 (a runtime may raise anything; the slot goes on with the next frame)
            self._fail("failed", f"{type(error).__name__}: {error}")
        else:
            if outcome.decided:
                self.work.late += self._is_late(frame)
                self.work.busy_s += outcome.latency_us / 1e6
                with self._board.lock:
                    self._board.tally.add(outcome.latency_us, outcome.confidence)
                shadow = self.shadow
                if shadow is not None and outcome.seen is not None:
                    shadow.offer(outcome.seen, frame.number)

    def _is_late(self, frame: Frame) -> bool:
        return self._deadline_s is not None and self._clock() - frame.t_mono_s > self._deadline_s

    def _fail(self, code: str, detail: str) -> None:
        with self._board.lock:
            tally = self._board.tally
            tally.errors += 1
            first = tally.last_error is None
            tally.last_error = ErrorInfo(code=code, detail=detail[:500])
        if first:
            _LOG.error("slot %s: %s", self.name, detail)

    def _report(self, frame: Frame, model: Model | None, outcome: Outcome) -> None:
        stream, seq = None, 0
        row: list[float] = []
        for stream, row in outcome.rows:
            seq = self._outbox.sample(stream, frame.t_ms, row)
        if outcome.capture and stream is not None:
            self._roll.add(Shot(self.name, self.table.task, frame, stream.name, seq, row))
        if self._keeper is not None:
            self._keeper.see(Seen(self.name, frame, stream, seq, row, outcome.capture))
        if outcome.decision is not None:
            release = 0 if model is None else model.release
            self._announce(self.name, release, frame.t_ms, outcome.decision)
        if outcome.later is not None:
            self._outbox.later(partial(self._report_later, frame.t_ms, model, outcome.later))
        if outcome.signals is not None and model is not None and self._observer is not None:
            self._outbox.later(partial(self._observe, self._observer, frame.t_ms, model, outcome.signals))

    def _observe(self, observer: Observer, t_ms: int, model: Model, signals: Callable[[], list[float]]) -> None:
        try:
            observer.add(self.name, model, t_ms, signals())
        except RoadloopError as error:  # whoever reports the decision fails at the same thing, and says so
            _LOG.debug("slot %s: no signals: %s", self.name, error)

    def _report_later(self, t_ms: int, model: Model | None, make_rows: MakeRows) -> None:
        try:
            rows = make_rows()
        except RoadloopError as error:
            if self._board.running is model:  # what a version did before it was replaced is not its successor's
                self._fail(error.code, str(error))
            return
        for stream, row in rows:
            self._outbox.sample(stream, t_ms, row)


def health_row(index: int, tally: Tally, dropped: int, rss_mb: float, pace: Pace) -> list[float]:
    """A sample of the stream health."""
    release = math.nan if tally.ref is None else float(tally.ref.release)
    return [
        float(index),
        release,
        float(tally.decisions),
        float(tally.errors),
        tally.latency_mean_us,
        tally.latency_max_us,
        float(dropped),
        rss_mb,
        float(pace.late),
        float(pace.expired),
        float(pace.shed),
        pace.share,
        float(pace.band),
        math.nan if pace.temperature_c is None else pace.temperature_c,
    ]
