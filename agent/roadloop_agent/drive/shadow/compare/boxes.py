"""Detections of two models: they agree where each finds what the other is sure of.

What is near the threshold comes and goes from frame to frame: an unsure detection needs no partner, but may be one.
"""

from dataclasses import dataclass

from roadloop_models.detect import Detections
from roadloop_models.detect.nms import iou

SURE = 0.5
OVERLAP = 0.5
"""Least intersection over union of two boxes of one object."""


@dataclass(frozen=True)
class Named:
    """Detections, and the model's own names of its classes."""

    found: Detections
    labels: tuple[str, ...]


def agree(one: Named, other: Named) -> bool:
    """Whether every sure detection of either has a partner of the same label."""
    return _has_all(one, other) and _has_all(other, one)


def mean_score(found: Detections) -> float | None:
    """As the handlers tell it; None where nothing was found."""
    return sum(found.scores) / len(found) if len(found) else None


def _has_all(finder: Named, sure: Named) -> bool:
    """Each box of the finder stands for one object."""
    overlaps = iou(sure.found.corners, finder.found.corners).tolist()
    free = set(range(len(finder.found)))
    for place, score in enumerate(sure.found.scores):
        if score < SURE:
            break  # best first
        label = sure.labels[sure.found.classes[place]]
        partners = [other for other in free if finder.labels[finder.found.classes[other]] == label]
        best = max(partners, key=lambda other: overlaps[place][other], default=None)
        if best is None or overlaps[place][best] < OVERLAP:
            return False
        free.discard(best)
    return True
