"""object-detection on board: one image in, boxes out; any detector, whoever trained it."""

import math
import time

from roadloop_agent.config import SlotTable
from roadloop_agent.drive.decide import wants_capture
from roadloop_agent.drive.frames import Frame
from roadloop_agent.drive.handlers import Around, Outcome
from roadloop_agent.drive.pipeline import Model
from roadloop_agent.onboard import task_settings
from roadloop_agent.task_settings import ObjectDetectionSettings
from roadloop_models.contract.streams import COUNTED_LABELS, DETECTION
from roadloop_models.detect import Detections
from roadloop_models.errors import ConfigError
from roadloop_models.runners import FloatArray


class DetectionHandler:
    """See the module."""

    def __init__(self, table: SlotTable) -> None:
        settings: ObjectDetectionSettings = task_settings(table.task, table.settings, "settings")
        self._capture = table.capture
        self._counted_labels = settings.counted
        self._counted_for: Model | None = None
        self._counted: tuple[int, ...] = ()

    def handle(self, frame: Frame, model: Model | None, around: Around) -> Outcome:
        """Raises ModelInputError where the frame is no uint8 RGB image, FailedError where the answer is not finite,
        ConfigError where a counted label is none of the model's."""
        if model is None:
            return Outcome()
        if model is not self._counted_for:
            self._counted, self._counted_for = counted_classes(model, self._counted_labels), model
        started_ns = time.perf_counter_ns()
        found = detect(model, model.preprocess(frame.data), *frame.data.shape[:2])
        latency_us = (time.perf_counter_ns() - started_ns) / 1000.0
        scores = found.scores
        capture = self._capture
        least = min(scores, default=1.0)
        captured = wants_capture(least, around.frames, capture.below_confidence, capture.every) and around.may_capture()
        row = detection_row(
            found,
            self._counted,
            item=frame.number,
            latency_us=latency_us,
            release=model.release,
            captured=captured,
            dropped=around.dropped,
        )
        return Outcome(
            rows=[(DETECTION, row)],
            decided=True,
            latency_us=latency_us,
            confidence=sum(scores) / len(scores) if scores else None,
            capture=captured,
            decision=lambda: detection_line(found, model.postprocess.labels),
            seen=(frame.data,),
        )


def detect(model: Model, inputs: tuple[FloatArray, ...], height: int, width: int) -> Detections:
    """Run the model on the input tensors of an image of height x width pixels.

    Raises FailedError where it answers with what is not finite.
    """
    found: Detections = model.postprocess(model.run(inputs), height, width)
    return found


def counted_classes(model: Model, labels: tuple[str, ...]) -> tuple[int, ...]:
    """The classes of these labels; without any the model's first ones. Raises ConfigError for a label it lacks."""
    known: tuple[str, ...] = model.postprocess.labels
    for label in labels:
        if label not in known:
            raise ConfigError(f"settings.counted: '{label}' is no label of {model.name}; it has {', '.join(known)}")
    return tuple(known.index(label) for label in labels) or tuple(range(min(len(known), COUNTED_LABELS)))


def detection_row(
    found: Detections,
    counted: tuple[int, ...],
    *,
    item: int,
    latency_us: float,
    release: int,
    captured: bool,
    dropped: int,
) -> list[float]:
    """A sample of the stream detection."""
    scores, classes = found.scores, found.classes
    counts = [float(classes.count(index)) for index in counted]
    return [
        float(item),
        float(len(scores)),
        float(classes[0]) if classes else math.nan,
        scores[0] if scores else math.nan,
        scores[-1] if scores else math.nan,
        *counts,
        *([math.nan] * (COUNTED_LABELS - len(counts))),
        latency_us,
        float(release),
        float(captured),
        float(dropped),
    ]


def detection_line(found: Detections, labels: tuple[str, ...]) -> dict[str, object]:
    """What was found as a line of JSON tells it; boxes are x1, y1, x2, y2 in pixels of the image."""
    rows = zip(found.classes, found.scores, found.boxes, strict=True)
    return {
        "detections": [
            {"label": labels[index], "score": round(score, 4), "box": [round(edge, 1) for edge in box]}
            for index, score, box in rows
        ]
    }
