"""Non-maximum suppression: of boxes that overlap and have one class, the best remains.

This stands on the driving path. Beside a network that has just swept the caches every numpy call costs some
microseconds whatever the size of its arrays, so few of them are made.
"""

import math

import numpy as np

from roadloop_models.detect.detections import Detections, FloatArray
from roadloop_models.errors import FailedError

FEW = 32
"""Up to so many boxes, plain floats are quicker than a dozen numpy calls."""
MAX_CANDIDATES = 256
"""Boxes that are compared with each other, the best of them; a frame of the road has far fewer."""


def suppress(found: Detections, max_iou: float, min_score: float = 0.0) -> Detections:
    """The detections of at least `min_score` that no better one of their class overlaps by more than `max_iou`.

    Best first; equal scores keep their order. Raises FailedError where a score is not finite.
    """
    if not math.isfinite(sum(found.scores)):
        raise FailedError("the detector answers with scores that are not finite")
    order = [place for place, score in enumerate(found.scores) if score >= min_score]
    order.sort(key=found.scores.__getitem__, reverse=True)  # reversed, equal scores still keep their order
    del order[MAX_CANDIDATES:]
    kept = _kept_of_few if len(order) <= FEW else _kept_of_many
    return found.take(kept(found, order, max_iou))


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


def _kept_of_few(found: Detections, order: list[int], max_iou: float) -> list[int]:
    """Which places of `order`, best first, to keep."""
    share = max_iou / (1.0 + max_iou)
    boxes, classes = found.boxes, found.classes
    places: list[int] = []
    kept: list[tuple[float, float, float, float, float, int]] = []
    for place in order:
        (left, top, right, bottom), index = boxes[place], classes[place]
        area = (right - left) * (bottom - top)
        for its_left, its_top, its_right, its_bottom, its_area, its_class in kept:
            if its_class != index:
                continue
            # not min and max: as calls they are half of the time
            width = (right if right < its_right else its_right) - (left if left > its_left else its_left)
            height = (bottom if bottom < its_bottom else its_bottom) - (top if top > its_top else its_top)
            if width > 0 and width * height > share * (area + its_area):  # as below
                break
        else:
            places.append(place)
            kept.append((left, top, right, bottom, area, index))
    return places


def _kept_of_many(found: Detections, order: list[int], max_iou: float) -> list[int]:
    """The same for a crowd: every box with every other at once."""
    edges, classes = found.corners.T.take(order, axis=1), np.array(found.classes).take(order)
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
            kept.append(order[place])
            gone |= int.from_bytes(rows[place * width : (place + 1) * width], "little")
    return kept
