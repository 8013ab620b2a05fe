"""vehicle-count on board: vehicles found in each frame, followed, and counted where they pass a line."""

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from roadloop_agent.config import SlotTable
from roadloop_agent.drive.decide import wants_capture
from roadloop_agent.drive.frames import Frame
from roadloop_agent.drive.handlers import Around, Outcome
from roadloop_agent.drive.pipeline import Model
from roadloop_agent.onboard import task_settings
from roadloop_agent.task_settings import VehicleCountSettings
from roadloop_models.contract.streams import CROSSING, FLOW, Stream
from roadloop_models.counting.counter import Counter, Crossing
from roadloop_models.counting.lines import MIDDLE, Line
from roadloop_models.counting.tracker import Track
from roadloop_models.counting.watcher import Watcher
from roadloop_models.detect import Detections
from roadloop_models.errors import ConfigError
from roadloop_models.preprocess import FloatArray, ImageArray

DIRECTIONS = ("up", "down", "left", "right")
"""As the streams number them."""
_REMEMBERED_FRAMES = 256
"""A crossing is told some frames after the one that it names; so long their times are kept."""


class CountHandler:
    """See the module."""

    def __init__(self, table: SlotTable) -> None:
        settings: VehicleCountSettings = task_settings(table.task, table.settings, "settings")
        self._capture = table.capture
        self._counting = Counting(settings)
        self._flow = _Flow([line.name for line in self._counting.lines], settings.flow_period_s)

    def handle(self, frame: Frame, model: Model | None, around: Around) -> Outcome:
        """Raises ModelInputError where the frame is no uint8 RGB image, FailedError where the answer is not finite,
        ConfigError where a counted class is none of the model's."""
        if model is None:
            return Outcome()
        started_ns = time.perf_counter_ns()
        crossings = self._counting.step(model, frame.number, frame.t_source_s, frame.data)
        latency_us = (time.perf_counter_ns() - started_ns) / 1000.0
        tracks = self._counting.tracks
        scores = [track.score for track in tracks]
        rows: list[tuple[Stream, list[float]]] = [
            (CROSSING, crossing_row(crossing, self._flow.lines, model.release)) for crossing in crossings
        ]
        self._flow.add(crossings, len(scores), latency_us)
        rows += [(FLOW, row) for row in self._flow.due(frame.t_mono_s, model.release, around.dropped)]
        capture = self._capture
        unsure = min((crossing.confidence for crossing in crossings), default=1.0)
        wanted = wants_capture(unsure, around.frames, capture.below_confidence, capture.every)

        def decision() -> dict[str, object]:
            return {
                "frame": frame.number,
                "vehicles": [{"track": t.number, "box": [round(edge, 1) for edge in t.box.tolist()]} for t in tracks],
                "crossings": [self._counting.line(crossing, model) for crossing in crossings],
            }

        return Outcome(
            rows=rows,
            decided=True,
            latency_us=latency_us,
            confidence=sum(scores) / len(scores) if scores else None,
            capture=bool(rows) and wanted and around.may_capture(),
            decision=decision,
            seen=(*self._counting.inputs, np.array(frame.data.shape[:2])),
        )


class Counting:
    """One camera's background, tracks and lines; they outlive the model."""

    def __init__(self, settings: VehicleCountSettings) -> None:
        self.lines = tuple(Line(line.name, line.start, line.end) for line in settings.lines) or (MIDDLE,)
        self._classes = settings.classes
        self._watcher, self._counter = Watcher(), Counter(self.lines, settings.min_score)
        self._times_s: deque[tuple[int, float | None]] = deque(maxlen=_REMEMBERED_FRAMES)
        self._wanted_of: Model | None = None
        self._wanted: frozenset[int] | None = None
        self.inputs: tuple[FloatArray, ...] = ()
        """What the model was fed with in the last frame."""

    @property
    def tracks(self) -> list[Track]:
        """The confirmed tracks that were found in the last frame."""
        return self._counter.tracks

    def step(self, model: Model, number: int, t_source_s: float | None, image: ImageArray) -> list[Crossing]:
        """One frame: its number and time by the source, and its uint8 RGB image. Returns what is certain now.

        Raises ModelInputError, FailedError, ConfigError as `CountHandler.handle`.
        """
        if model is not self._wanted_of:
            self._wanted, self._wanted_of = wanted_classes(model, self._classes), model
        self.inputs = inputs = self._watcher.look(image, model.preprocess)
        height, width = image.shape[:2]
        found: Detections = model.postprocess(model.run(inputs), height, width)
        if self._wanted is not None:
            found = found.of_classes(self._wanted)
        self._times_s.append((number, t_source_s))
        return self._counter.step(number, found, height, width)

    def line(self, crossing: Crossing, model: Model) -> dict[str, object]:
        """A crossing as a line of JSON tells it; `t` is the source's time of that frame, seconds."""
        known = [t for number, t in self._times_s if t is not None and number <= crossing.frame]
        labels: tuple[str, ...] = model.postprocess.labels
        return {
            "event": "crossing",
            "frame": crossing.frame,
            "t": round(known[-1], 4) if known else None,
            "track": crossing.track,
            "line": crossing.line,
            "direction": crossing.direction,
            "class": labels[crossing.class_id],
            "confidence": round(crossing.confidence, 4),
        }


@dataclass
class _Flow:
    """What is summed up for the stream flow."""

    lines: list[str]
    period_s: float
    since_s: float | None = None
    frames: int = 0
    vehicles: int = 0
    latency_us: float = 0.0
    counts: dict[tuple[str, bool], int] = field(default_factory=dict)

    def add(self, crossings: Iterable[Crossing], vehicles: int, latency_us: float) -> None:
        self.frames += 1
        self.vehicles += vehicles
        self.latency_us += latency_us
        for crossing in crossings:
            key = crossing.line, crossing.direction in ("up", "left")
            self.counts[key] = self.counts.get(key, 0) + 1

    def due(self, now_s: float, release: int, dropped: int) -> list[list[float]]:
        """One row a line where the period is over at `now_s` (monotonic); counting then begins anew."""
        if self.since_s is None:
            self.since_s = now_s
        seconds = now_s - self.since_s
        if seconds < self.period_s:
            return []
        rows = [
            [
                float(index),
                seconds,
                float(self.counts.get((name, True), 0)),
                float(self.counts.get((name, False), 0)),
                float(self.frames),
                self.vehicles / self.frames,
                self.latency_us / self.frames,
                float(release),
                float(dropped),
            ]
            for index, name in enumerate(self.lines)
        ]
        self.since_s, self.frames, self.vehicles, self.latency_us, self.counts = now_s, 0, 0, 0.0, {}
        return rows


def wanted_classes(model: Model, labels: tuple[str, ...]) -> frozenset[int] | None:
    """The classes of these labels; None (all) without any. Raises ConfigError for a label that the model lacks."""
    known: tuple[str, ...] = model.postprocess.labels
    for label in labels:
        if label not in known:
            raise ConfigError(f"settings.classes: '{label}' is no label of {model.name}; it has {', '.join(known)}")
    return frozenset(known.index(label) for label in labels) or None


def crossing_row(crossing: Crossing, lines: list[str], release: int) -> list[float]:
    """A sample of the stream crossing."""
    return [
        float(crossing.frame),
        float(lines.index(crossing.line)),
        float(DIRECTIONS.index(crossing.direction)),
        float(crossing.track),
        float(crossing.class_id),
        crossing.confidence,
        float(release),
    ]
