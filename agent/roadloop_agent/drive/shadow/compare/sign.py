"""traffic-sign: another class is another decision. Seen: the image."""

from roadloop_agent.drive.handlers.sign import classify
from roadloop_agent.drive.pipeline import Model
from roadloop_agent.drive.shadow.compare import Comparison, Decided
from roadloop_agent.drive.shadow.wire import Seen


def decide(model: Model, seen: Seen) -> Decided[str]:
    """Raises ModelInputError, FailedError as the handler."""
    (image,) = seen
    sign = classify(model, model.preprocess(image))
    return Decided(sign.label or str(sign.class_id), sign.confidence)


COMPARISON = Comparison(decide, str.__eq__)
