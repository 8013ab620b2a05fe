"""vehicle-count: other vehicles found in a frame. Tracks and crossings follow from them and are not compared.

Seen: the tensors that the incumbent was fed, which the scene's background went into, and the frame's height and width.
"""

from roadloop_agent.drive.pipeline import Model
from roadloop_agent.drive.shadow.compare import Comparison, Decided, accept_equal_input
from roadloop_agent.drive.shadow.compare.boxes import Named, agree, mean_score
from roadloop_agent.drive.shadow.wire import Seen
from roadloop_models.detect import Detections


def decide(model: Model, seen: Seen) -> Decided[Named]:
    """Raises ModelInputError, FailedError as the handler."""
    *inputs, size = seen
    height, width = size.tolist()
    found: Detections = model.postprocess(model.run(tuple(inputs)), height, width)
    return Decided(Named(found, model.postprocess.labels), mean_score(found))


COMPARISON = Comparison(decide, agree, accept_equal_input)
