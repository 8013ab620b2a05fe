"""`roadloop-agent trace`: what campaigns would see of a recorded drive, by the code that drives.

Every slot decides about its source as fast as it can; the frames of all slots go by in the order of their times.
"""

import hashlib
import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from roadloop_agent.config import Config, SlotTable
from roadloop_agent.drive.frames import Frame, Reported
from roadloop_agent.drive.handlers import open_handler
from roadloop_agent.drive.pipeline import Model
from roadloop_agent.drive.sources import opener
from roadloop_agent.hardware_config import CameraSource
from roadloop_agent.onboard import ON_BOARD
from roadloop_agent.signals_config import SignalsSource
from roadloop_models.campaigns.novelty import Novelty
from roadloop_models.campaigns.sight import Board, Sight
from roadloop_models.campaigns.trace import TraceHead, TraceMoment, known, trace_line
from roadloop_models.campaigns.watched import WATCHED
from roadloop_models.errors import ConfigError, DataError
from roadloop_models.preprocess import ImageArray


@dataclass
class _Around:
    """What a handler may ask: nothing is dropped here, and the slot's own capture policy sends nothing."""

    frames: int = 0
    dropped: int = 0

    def may_capture(self) -> bool:
        return False


@dataclass(frozen=True)
class Written:
    """What a trace has."""

    moments: dict[str, int]
    """By slot."""
    seconds: float


def write_trace(
    config: Config,
    models: Mapping[str, Model],
    develop: Callable[[ImageArray], bytes],
    output: Path,
    *,
    start_ms: int,
    passed_over: Reported,
    max_seconds: float | None = None,
) -> Written:
    """Write the trace of a vehicle whose slots run these models; `start_ms` is wall time at the drive's beginning.

    Raises ConfigError where no slot has campaigns, or a source is live; DataError where a source cannot be read.
    """
    tables = {name: table for name, table in config.profile.slots.items() if table.task in WATCHED and table.rate_hz}
    if not tables:
        raise ConfigError(f"{config.profile_path}: no slot has a task with campaigns: {', '.join(sorted(WATCHED))}")
    board = Board(config.privacy.position_m)
    tracers = {name: _Tracer(name, table, models[name], board, develop) for name, table in tables.items()}
    counts = dict.fromkeys(tables, 0)
    seconds = 0.0
    sources = [_frames(config, name, table, start_ms, passed_over) for name, table in tables.items()]
    try:
        with output.open("wb") as file:
            slots = {name: table.task for name, table in tables.items()}
            file.write(trace_line(TraceHead(vehicle=config.vehicle_id, slots=slots)))
            for t_s, slot, frame in heapq.merge(*sources, key=itemgetter(0, 1)):
                if max_seconds is not None and t_s > max_seconds:
                    break
                seconds = t_s
                moment = tracers[slot].moment(frame)
                if moment is not None:
                    counts[slot] += 1
                    file.write(trace_line(moment))
    except OSError as error:
        raise DataError(f"{output}: {error.strerror or error}") from error
    return Written(counts, seconds)


class _Tracer:
    """One slot."""

    def __init__(
        self, slot: str, table: SlotTable, model: Model, board: Board, develop: Callable[[ImageArray], bytes]
    ) -> None:
        self._slot = slot
        self._watched = WATCHED[table.task]
        self._signals = ON_BOARD[table.task].takes == "signals"
        self._handler = open_handler(table)
        self._model = model
        self._board = board
        self._develop = develop
        self._around = _Around()
        self._sight = Sight(self._watched, Novelty())

    def moment(self, frame: Frame) -> TraceMoment | None:
        """What campaigns see of a frame; None where that is nothing."""
        self._around.frames += 1
        signals = self._board.put(frame) if self._signals else None
        outcome = self._handler.handle(frame, self._model, self._around)
        row = next((row for stream, row in reversed(outcome.rows) if stream is self._watched.stream), None)
        values = None
        if row is not None:
            around = self._board.now(frame.t_mono_s) if signals is None else signals
            values = self._sight.values(row, None if self._signals else frame.data, around)
        if signals is not None:
            return TraceMoment(
                slot=self._slot, t_s=frame.data.t_s, t_ms=frame.t_ms, values=values, signals=known(signals)
            )
        if values is None:
            return None
        content = self._develop(frame.data)
        return TraceMoment(
            slot=self._slot,
            t_s=frame.t_mono_s,
            t_ms=frame.t_ms,
            values=values,
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )


def _frames(
    config: Config, slot: str, table: SlotTable, start_ms: int, passed_over: Reported
) -> Iterator[tuple[float, str, Frame]]:
    """(seconds since the beginning, slot, frame) of what the slot would take."""
    source = config.profile.sources[table.source]
    if isinstance(source, CameraSource) or (isinstance(source, SignalsSource) and source.is_live):
        raise ConfigError(f"slots.{slot}: its source '{table.source}' is live; a trace is made of a recorded one")
    rate_hz = source.rate_hz or table.rate_hz
    every = source.pace == "as-consumed"
    items = opener(source, config.source_path(source), lambda: 0.0, config.wanted_signals(table.source))(passed_over)
    first_s, due_s = None, 0.0
    for place, item in enumerate(item for item in items if item is not None):
        if item.t_source_s is None:
            t_s = place / rate_hz
        else:
            first_s = item.t_source_s if first_s is None else first_s
            t_s = item.t_source_s - first_s
        if not every:
            if due_s - t_s > 0.5 / rate_hz:
                continue
            due_s = max(due_s, t_s - 1.0 / table.rate_hz) + 1.0 / table.rate_hz
        t_ms = start_ms + round(1000 * t_s)
        yield t_s, slot, Frame(item.number, t_s, t_ms, item.data, item.t_source_s)
