"""traffic-sign on board: one image in, one class out; unsure ones are sent to the cloud."""

import math
import time

from roadloop_agent.config import SlotTable
from roadloop_agent.drive.decide import wants_capture
from roadloop_agent.drive.frames import Frame
from roadloop_agent.drive.handlers import Around, Outcome
from roadloop_agent.drive.pipeline import Model
from roadloop_models.contract.streams import SIGN_DECISION
from roadloop_models.errors import FailedError
from roadloop_models.postprocess import SignClass
from roadloop_models.preprocess import FloatArray
from roadloop_models.sketches.signals import sign_signals


class SignHandler:
    """See the module."""

    def __init__(self, table: SlotTable) -> None:
        self._capture = table.capture

    def handle(self, frame: Frame, model: Model | None, around: Around) -> Outcome:
        """Raises ModelInputError where the frame is no uint8 RGB image, FailedError where the answer is not finite."""
        if model is None:
            return Outcome()
        started_ns = time.perf_counter_ns()
        image = frame.data
        outputs = model.run(model.preprocess(image))
        decision = decide(model, outputs)
        latency_us = (time.perf_counter_ns() - started_ns) / 1000.0
        capture = self._capture
        wanted = wants_capture(decision.confidence, around.frames, capture.below_confidence, capture.every)
        captured = wanted and around.may_capture()
        row = sign_row(
            decision,
            item=frame.number,
            latency_us=latency_us,
            release=model.release,
            captured=captured,
            dropped=around.dropped,
        )
        return Outcome(
            rows=[(SIGN_DECISION, row)],
            decided=True,
            latency_us=latency_us,
            confidence=decision.confidence,
            capture=captured,
            decision=lambda: sign_line(decision),
            signals=lambda: sign_signals(image, outputs[0], decision),
            seen=(image,),
        )


def classify(model: Model, inputs: tuple[FloatArray, ...]) -> SignClass:
    """Run the model on its input tensors. Raises FailedError where it answers with what is not finite."""
    return decide(model, model.run(inputs))


def decide(model: Model, outputs: tuple[FloatArray, ...]) -> SignClass:
    """What the model's answer means. Raises FailedError where it is not finite."""
    sign: SignClass = model.postprocess(outputs)
    if not math.isfinite(sign.confidence):
        raise FailedError(f"{model.name} answers with values that are not finite")
    return sign


def sign_row(
    decision: SignClass, *, item: int, latency_us: float, release: int, captured: bool, dropped: int
) -> list[float]:
    """A sample of the stream sign-decision."""
    return [
        float(item),
        float(decision.class_id),
        decision.confidence,
        decision.margin,
        latency_us,
        float(release),
        float(captured),
        float(dropped),
    ]


def sign_line(decision: SignClass) -> dict[str, object]:
    """A decision as a line of JSON tells it."""
    return {
        "class_id": decision.class_id,
        "label": decision.label,
        "confidence": round(decision.confidence, 6),
    }
