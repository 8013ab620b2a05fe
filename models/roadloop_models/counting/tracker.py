"""From detections frame by frame to tracks: overlap with where each is expected, constant velocity, hysteresis. Pure.

A detection that nothing explains begins a tentative track if its score is high; it is confirmed after a few frames in
which it was found again, and given up at the first in which it was not. A confirmed one lives on low scores too, and
over some frames without any.
"""

from dataclasses import dataclass, field

import numpy as np

from roadloop_models.detect.detections import Detections, FloatArray

CONFIRM_FRAMES = 3
MAX_MISSED = 10
_NEAR, _NEAR_NEW = -0.05, -0.3
"""Least likeness of a detection to a track whose velocity is known, and to one that was seen once."""
_FOLLOW, _FOLLOW_VELOCITY = 0.7, 0.3
"""Gains of the alpha-beta filter, once a track is some frames old."""


@dataclass(eq=False)
class Track:
    """One object over time. Boxes are x1, y1, x2, y2 in pixels; velocities are those of the edges, per frame."""

    box: FloatArray
    score: float
    classes: dict[int, float]
    """Class -> summed scores."""
    seen: int
    """Number of the frame in which it was last found."""
    velocity: FloatArray = field(default_factory=lambda: np.zeros(4, np.float32))
    hits: int = 1
    missed: int = 0
    number: int = 0
    """From 1, in the order of confirmation; 0 while tentative."""

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of the box: x, y."""
        x1, y1, x2, y2 = self.box.tolist()
        return (x1 + x2) / 2.0, (y1 + y2) / 2.0

    @property
    def class_id(self) -> int:
        """The class with the most votes."""
        return max(self.classes, key=lambda class_id: self.classes[class_id])

    def expected(self, frame: int) -> FloatArray:
        """Where its box should be in that frame, if it goes on as it did."""
        return self.box + self.velocity * np.float32(frame - self.seen)

    def follow(self, frame: int, box: FloatArray, score: float, class_id: int) -> None:
        """It was found in that frame."""
        elapsed = np.float32(frame - self.seen)
        self.hits += 1
        surprise = box - self.expected(frame)
        # The first differences are all that is known; later ones are averaged.
        self.velocity = self.velocity + surprise * np.float32(max(_FOLLOW_VELOCITY, 1.0 / (self.hits - 1))) / elapsed
        self.box = box - surprise * np.float32(1.0 - max(_FOLLOW, 1.0 / (self.hits - 1)))
        self.score += (score - self.score) * max(0.1, 1.0 / self.hits)
        self.classes[class_id] = self.classes.get(class_id, 0.0) + score
        self.seen, self.missed = frame, 0


class Tracker:
    """Follows all objects of one camera."""

    def __init__(self, min_score: float, confirm_frames: int = CONFIRM_FRAMES, max_missed: int = MAX_MISSED) -> None:
        self.tracks: list[Track] = []
        self._min_score = min_score
        self._confirm_frames, self._max_missed = confirm_frames, max_missed
        self._confirmed = 0

    def update(self, frame: int, found: Detections) -> list[Track]:
        """Take the detections of a frame (numbers must increase); returns the tracks that were found in it."""
        boxes, scores, classes = found.corners, found.scores, found.classes
        pairs = self._pairs(frame, boxes)
        for place, index in pairs.items():
            self.tracks[place].follow(frame, boxes[index], scores[index], classes[index])
        known = [track for place, track in enumerate(self.tracks) if place in pairs or self._stays(track)]
        explained = set(pairs.values())
        begun = [
            Track(boxes[index], scores[index], {classes[index]: 1.0}, frame)
            for index in range(len(found))
            if index not in explained and scores[index] >= self._min_score
        ]
        self.tracks = known + begun
        seen = [track for track in self.tracks if track.seen == frame]
        for track in seen:
            if not track.number and track.hits >= self._confirm_frames:
                self._confirmed += 1
                track.number = self._confirmed
        return seen

    def clear(self) -> None:
        """Forget all tracks; numbers go on."""
        self.tracks = []

    def _stays(self, track: Track) -> bool:
        track.missed += 1
        return track.number > 0 and track.missed <= self._max_missed

    def _pairs(self, frame: int, boxes: FloatArray) -> dict[int, int]:
        """Track -> detection, the most alike first."""
        if not self.tracks or not len(boxes):
            return {}
        alike = likeness(np.stack([track.expected(frame) for track in self.tracks]), boxes)
        least = np.array([_NEAR if track.hits > 1 else _NEAR_NEW for track in self.tracks])
        pairs: dict[int, int] = {}
        taken: set[int] = set()
        for flat in np.argsort(-alike, axis=None, kind="stable").tolist():
            track, index = divmod(flat, len(boxes))
            if track not in pairs and index not in taken and alike[track, index] > least[track]:
                pairs[track] = index
                taken.add(index)
        return pairs


def likeness(boxes: FloatArray, others: FloatArray) -> FloatArray:
    """Distance-IoU (Zheng et al., AAAI 2020): overlap - (centre distance / diagonal of both)^2.

    float32 [n, 4] and [m, 4] -> [n, m]: 1 for equal boxes, down to -1 for boxes far apart. Unlike overlap alone it
    tells near from far where nothing overlaps.
    """
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    other_low, other_high = others[None, :, :2], others[None, :, 2:]
    shared = np.clip(np.minimum(high, other_high) - np.maximum(low, other_low), 0.0, None).prod(axis=2)
    sizes = (high - low).prod(axis=2) + (other_high - other_low).prod(axis=2)
    apart = (((low + high) - (other_low + other_high)) ** 2).sum(axis=2) / 4.0
    around = ((np.maximum(high, other_high) - np.minimum(low, other_low)) ** 2).sum(axis=2)
    alike: FloatArray = shared / np.maximum(sizes - shared, 1e-6) - apart / np.maximum(around, 1e-6)
    return alike
