"""object-detection: other objects, as boxes.py tells them apart. Seen: the image."""

from roadloop_agent.drive.handlers.object_detection import detect
from roadloop_agent.drive.pipeline import Model
from roadloop_agent.drive.shadow.compare import Comparison, Decided
from roadloop_agent.drive.shadow.compare.boxes import Named, agree, mean_score
from roadloop_agent.drive.shadow.wire import Seen


def decide(model: Model, seen: Seen) -> Decided[Named]:
    """Raises ModelInputError, FailedError as the handler."""
    (image,) = seen
    found = detect(model, model.preprocess(image), *image.shape[:2])
    return Decided(Named(found, model.postprocess.labels), mean_score(found))


COMPARISON = Comparison(decide, agree)
