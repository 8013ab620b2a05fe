"""Non-maximum suppression: of boxes that overlap and have one class, the best remains."""

import numpy as np
import numpy.typing as npt

from roadloop_models.detect.detections import NOTHING, Detections, FloatArray

BoolArray = npt.NDArray[np.bool_]
MAX_CANDIDATES = 256
"""Boxes that are compared with each other, the best of them; a frame of the road has far fewer."""


_BETTER = np.triu(np.ones((MAX_CANDIDATES, MAX_CANDIDATES), dtype=np.bool_), 1)
"""[i, j]: of boxes in the order of their scores, i is better than j."""


def suppress(found: Detections, max_iou: float) -> Detections:
    """The detections that no better one of their class overlaps by more than `max_iou`, best first.

    That is greedy suppression, without its loop over boxes: which boxes are kept is the one fixed point of "kept where
    no better kept box overlaps", and each round settles at least the best box that is not settled yet. Real frames
    need two or three rounds.
    """
    count = len(found)
    if count == 0:
        return NOTHING
    if count == 1:
        return found
    order = (-found.scores).argsort(kind="stable")[:MAX_CANDIDATES]
    boxes, classes = found.boxes[order], found.classes[order]
    beaten_by = iou(boxes, boxes) > max_iou
    beaten_by &= classes[:, np.newaxis] == classes
    beaten_by &= _BETTER[: len(order), : len(order)]
    kept = _fixed_point(beaten_by)
    return Detections(boxes[kept], found.scores[order[kept]], classes[kept])


def iou(boxes: FloatArray, others: FloatArray) -> FloatArray:
    """Intersection over union: float32 [n, 4] and [m, 4] (x1, y1, x2, y2) -> float32 [n, m]."""
    left, top, right, bottom = boxes.T[:, :, np.newaxis]
    other_left, other_top, other_right, other_bottom = others.T
    width = np.maximum(np.minimum(right, other_right) - np.maximum(left, other_left), 0.0)
    height = np.maximum(np.minimum(bottom, other_bottom) - np.maximum(top, other_top), 0.0)
    shared = width * height
    union = (right - left) * (bottom - top) + (other_right - other_left) * (other_bottom - other_top) - shared
    shares: FloatArray = shared / np.maximum(union, np.float32(1e-9))
    return shares


def _fixed_point(beaten_by: BoolArray) -> BoolArray:
    """bool [n]: kept; `beaten_by[i, j]`: box i is better than box j and overlaps it."""
    kept: BoolArray = ~np.any(beaten_by, axis=0)
    while True:
        again: BoolArray = ~np.any(beaten_by[kept], axis=0)
        if (again == kept).all():
            return kept
        kept = again
