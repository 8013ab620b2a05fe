"""Non-maximum suppression: of boxes that overlap and have one class, the best remains.

This stands on the driving path. Beside a network that has just swept the caches every numpy call costs some
microseconds whatever the size of its arrays, so few of them are made.
"""

import numpy as np

from roadloop_models.detect.detections import NOTHING, ClassArray, Detections, FloatArray

FEW = 32
"""Up to so many boxes, plain floats are quicker than a dozen numpy calls."""
MAX_CANDIDATES = 256
"""Boxes that are compared with each other, the best of them; a frame of the road has far fewer."""


def suppress(found: Detections, max_iou: float, min_score: float = 0.0) -> Detections:
    """The detections of at least `min_score` that no better one of their class overlaps by more than `max_iou`.

    Best first; equal scores keep their order.
    """
    order = (-found.scores).argsort(kind="stable")[:MAX_CANDIDATES]
    if min_score > 0:
        order = order[: np.count_nonzero(found.scores >= min_score)]
    if not len(order):
        return NOTHING
    edges, classes = found.boxes.T.take(order, axis=1), found.classes.take(order)
    kept = np.array((_kept_of_few if len(order) <= FEW else _kept_of_many)(edges, classes, max_iou))
    return Detections(edges.take(kept, axis=1).T, found.scores.take(order.take(kept)), classes.take(kept))


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


def _kept_of_few(edges: FloatArray, classes: ClassArray, max_iou: float) -> list[int]:
    """Places of the boxes to keep, of boxes [4, n] (x1, y1, x2, y2) from the best to the worst."""
    share = max_iou / (1.0 + max_iou)
    places: list[int] = []
    kept: list[tuple[float, float, float, float, float, int]] = []
    rows = zip(*edges.tolist(), classes.tolist(), strict=True)
    for place, (left, top, right, bottom, index) in enumerate(rows):
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
