"""Non-maximum suppression: of boxes that overlap and have one class, the best remains.

This stands on the driving path. Beside a network that has just swept the caches every numpy call costs some
microseconds whatever the size of its arrays, so few of them are made.
"""

import numpy as np
import numpy.typing as npt

from roadloop_models.detect.detections import NOTHING, ClassArray, Detections, FloatArray

FEW = 32
"""Up to so many boxes, plain floats are quicker than a dozen numpy calls."""
MAX_CANDIDATES = 256
"""Boxes that are compared with each other, the best of them; a frame of the road has far fewer."""


def suppress(found: Detections, max_iou: float, min_score: float = 0.0) -> Detections:
    """The detections of at least `min_score` that no better one of their class overlaps by more than `max_iou`.

    Best first; equal scores keep their order.
    """
    if len(found) <= FEW:
        return _take(found, _kept_of_few(found, max_iou, min_score))
    order = (-found.scores).argsort(kind="stable")[:MAX_CANDIDATES]
    if min_score > 0:
        order = order[: np.count_nonzero(found.scores >= min_score)]
    kept = _kept_of_many(found.boxes.T.take(order, axis=1), found.classes.take(order), max_iou)
    return _take(found, order.take(np.array(kept, dtype=np.intp)))


def _take(found: Detections, places: list[int] | npt.NDArray[np.intp]) -> Detections:
    if not len(places):
        return NOTHING
    kept = np.asarray(places, dtype=np.intp)
    return Detections(found.boxes.take(kept, axis=0), found.scores.take(kept), found.classes.take(kept))


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


def _kept_of_few(found: Detections, max_iou: float, min_score: float) -> list[int]:
    """Places of the boxes to keep, from the best to the worst."""
    share = max_iou / (1.0 + max_iou)
    scores, boxes, classes = found.scores.tolist(), found.boxes.tolist(), found.classes.tolist()
    order = [place for place, score in enumerate(scores) if score >= min_score]
    order.sort(key=scores.__getitem__, reverse=True)  # reversed, equal scores still keep their order
    places: list[int] = []
    kept: list[tuple[float, float, float, float, float, int]] = []
    for place in order:
        left, top, right, bottom = boxes[place]
        index = classes[place]
        area = (right - left) * (bottom - top)
        for its_left, its_top, its_right, its_bottom, its_area, its_class in kept:
            if its_class != index or its_left >= right or its_right <= left or its_top >= bottom or its_bottom <= top:
                continue
            shared = (min(right, its_right) - max(left, its_left)) * (min(bottom, its_bottom) - max(top, its_top))
            if shared > share * (area + its_area):  # as below
                break
        else:
            places.append(place)
            kept.append((left, top, right, bottom, area, index))
    return places


def _kept_of_many(edges: FloatArray, classes: ClassArray, max_iou: float) -> list[int]:
    """The same for a crowd: every box with every other at once."""
    lower = np.maximum(edges[:2, :, np.newaxis], edges[:2, np.newaxis])
    sides = np.minimum(edges[2:, :, np.newaxis], edges[2:, np.newaxis])
    sides -= lower
    np.maximum(sides, np.float32(0.0), out=sides)
    areas = edges[2:] - edges[:2]
    areas[0] *= areas[1]
    # shared / (one + other - shared) > max_iou, without the division
    bound = (areas[0, :, np.newaxis] + areas[0]) * np.float32(max_iou / (1.0 + max_iou))
    overlapping = sides[0] * sides[1] > bound
    overlapping &= classes[:, np.newaxis] == classes
    packed = np.packbits(overlapping, axis=1, bitorder="little")
    rows, width = packed.tobytes(), packed.shape[1]
    kept, gone = [], 0
    for place in range(len(classes)):
        if not gone >> place & 1:
            kept.append(place)
            gone |= int.from_bytes(rows[place * width : (place + 1) * width], "little")
    return kept
