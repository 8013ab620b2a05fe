"""Average precision: how well detections agree with the boxes that a person drew."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from roadloop_models.detect.detections import Detections
from roadloop_models.detect.nms import iou


def average_precision(found: Sequence[Detections], truth: Sequence[Detections], class_id: int, min_iou: float) -> float:
    """Area under the precision-recall curve of one class over all images, precision made monotone (PASCAL VOC 2010).

    A detection is right where it overlaps a drawn box by `min_iou` that no better detection has taken. NaN where no
    image has an object of that class.
    """
    scores: list[float] = []
    right: list[bool] = []
    objects = 0
    for one, drawn in zip(found, truth, strict=True):
        mine, theirs = one.of_classes({class_id}), drawn.of_classes({class_id})
        objects += len(theirs)
        scores += mine.scores
        right += matches(mine, theirs, min_iou).tolist()
    if objects == 0:
        return float("nan")
    order = np.argsort(-np.array(scores), kind="stable")
    hits = np.cumsum(np.array(right, dtype=np.float64)[order])
    precision = hits / np.arange(1, len(hits) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    gained = np.diff(hits, prepend=0.0)
    return float((gained * best_from_here).sum()) / objects


def matches(found: Detections, truth: Detections, min_iou: float) -> npt.NDArray[np.bool_]:
    """bool [n]: whether each detection, best first, has a box of `truth` of its class that no better one took."""
    taken = np.zeros(len(truth), dtype=np.bool_)
    right = np.zeros(len(found), dtype=np.bool_)
    if not len(found) or not len(truth):
        return right
    shared = np.where(np.equal.outer(found.classes, truth.classes), iou(found.corners, truth.corners), 0.0)
    for index in sorted(range(len(found)), key=found.scores.__getitem__, reverse=True):
        free = np.where(taken, 0.0, shared[index])
        nearest = int(free.argmax())
        if free[nearest] >= min_iou:
            taken[nearest] = right[index] = True
    return right
