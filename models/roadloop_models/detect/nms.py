"""Non-maximum suppression: of boxes that overlap and have one class, the best remains."""

import numpy as np
import numpy.typing as npt

from roadloop_models.detect.detections import NOTHING, Detections, FloatArray

MAX_CANDIDATES = 256
"""Boxes that are compared with each other, the best of them; a frame of the road has far fewer."""


def suppress(found: Detections, max_iou: float) -> Detections:
    """The detections that no better one of their class overlaps by more than `max_iou`, best first.

    That is greedy suppression, without its loop over boxes: which boxes are kept is the one fixed point of "kept where
    no better kept box overlaps", and each round settles at least the best box that is not settled yet. Real frames
    need two or three rounds.
    """
    if not len(found):
        return NOTHING
    order = np.argsort(-found.scores, kind="stable")[:MAX_CANDIDATES]
    boxes, classes = found.boxes[order], found.classes[order]
    if len(order) > 1:
        beaten_by = iou(boxes, boxes) > max_iou
        beaten_by &= classes[:, np.newaxis] == classes
        beaten_by = np.triu(beaten_by, 1)
        if beaten_by.any():
            kept = _fixed_point(beaten_by)
            order, boxes, classes = order[kept], boxes[kept], classes[kept]
    return Detections(boxes, found.scores[order], classes)


def iou(boxes: FloatArray, others: FloatArray) -> FloatArray:
    """Intersection over union: float32 [n, 4] and [m, 4] (x1, y1, x2, y2) -> float32 [n, m]."""
    left_top = np.maximum(boxes[:, np.newaxis, :2], others[:, :2])
    right_bottom = np.minimum(boxes[:, np.newaxis, 2:], others[:, 2:])
    sides = np.maximum(right_bottom - left_top, np.float32(0.0))
    overlap = sides[..., 0] * sides[..., 1]
    union = _areas(boxes)[:, np.newaxis] + _areas(others) - overlap
    shares: FloatArray = overlap / np.maximum(union, np.float32(1e-9))
    return shares


def _areas(boxes: FloatArray) -> FloatArray:
    areas: FloatArray = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas


def _fixed_point(beaten_by: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """bool [n]: kept; `beaten_by[i, j]`: box i is better than box j and overlaps it."""
    kept: npt.NDArray[np.bool_] = ~np.any(beaten_by, axis=0)
    while True:
        again: npt.NDArray[np.bool_] = ~np.any(beaten_by[kept], axis=0)
        if (again == kept).all():
            return kept
        kept = again
