"""Counting: what the tracks of a camera do at its lines. Pure: the same detections give the same crossings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from roadloop_models.counting.lines import MIDDLE, Direction, Line, PlacedLine, Point
from roadloop_models.counting.tracker import Track, Tracker
from roadloop_models.detect.detections import Detections

MIN_SCORE = 0.45
"""A track begins with a detection of at least this score."""
_BEYOND = 0.08
"""A line is crossed when the middle of a box is this share of the box's extent beyond it: trembling is less."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """One object passed one line."""

    frame: int
    """The first frame in which its middle is on the other side."""
    track: int
    line: str
    direction: Direction
    class_id: int
    confidence: float
    """Mean score of the track, 0 to 1."""


@dataclass
class _Side:
    """Where a track is at one line."""

    last: Point
    frame: int
    beyond: bool
    """Side of the normal, as settled last."""
    passing: tuple[int, bool] | None = None
    """(frame in which the other side was reached, whether through the segment); None while on the settled side."""
    done: bool = False


class Counter:
    """Counts over one camera. A frame of another size, or one with an earlier number, begins anew."""

    def __init__(self, lines: Sequence[Line] = (MIDDLE,), min_score: float = MIN_SCORE) -> None:
        """Lines have different names."""
        self._lines = tuple(lines)
        self._placed: tuple[PlacedLine, ...] = ()
        self._tracker = Tracker(min_score)
        self._sides: dict[Track, dict[str, _Side]] = {}
        self._size, self._frame = (0, 0), -1

    @property
    def tracks(self) -> list[Track]:
        """The confirmed tracks that were found in the last frame."""
        return [track for track in self._tracker.tracks if track.number and track.seen == self._frame]

    def step(self, frame: int, found: Detections, height: int, width: int) -> list[Crossing]:
        """Take the detections of one frame of that size, in pixels; returns the crossings that are certain now.

        A crossing is told when it is certain, which is some frames after the frame that it names.
        """
        if (height, width) != self._size or frame <= self._frame:
            self._size = (height, width)
            self._placed = tuple(line.placed(width, height) for line in self._lines)
            self._tracker.clear()
        self._frame = frame
        seen = self._tracker.update(frame, found)
        self._sides = {track: self._sides.get(track, {}) for track in self._tracker.tracks}
        looks = (_look(track, self._sides[track], line) for track in seen for line in self._placed)
        crossings = [crossing for crossing in looks if crossing is not None]
        return sorted(crossings, key=lambda crossing: (crossing.frame, crossing.track))


def _look(track: Track, sides: dict[str, _Side], line: PlacedLine) -> Crossing | None:
    here = track.centre
    distance = line.distance(here)
    side = sides.get(line.name)
    if side is None:
        sides[line.name] = _Side(here, track.seen, distance > 0)
        return None
    if (distance > 0) == side.beyond:
        side.passing = None
    elif side.passing is None:
        side.passing = _passing_frame(line, side, here, track.seen), line.passed(side.last, here)
    side.last, side.frame = here, track.seen
    if side.passing is None or not track.number or abs(distance) < _BEYOND * _extent(track, line):
        return None
    (frame, through), side.passing, side.beyond = side.passing, None, distance > 0
    if not through or side.done:
        return None
    side.done = True
    return Crossing(frame, track.number, line.name, line.direction(side.beyond), track.class_id, track.score)


def _passing_frame(line: PlacedLine, side: _Side, here: Point, frame: int) -> int:
    """The first frame on the other side; interpolated where the track was not found in the frames between."""
    before, after = abs(line.distance(side.last)), abs(line.distance(here))
    share = before / (before + after) if before + after else 0.0
    return min(frame, max(side.frame + 1, math.ceil(side.frame + share * (frame - side.frame))))


def _extent(track: Track, line: PlacedLine) -> float:
    """How large the box is across the line, pixels."""
    x1, y1, x2, y2 = track.box.tolist()
    across_x, across_y = line.normal
    return abs(across_x) * float(x2 - x1) + abs(across_y) * float(y2 - y1)
