"""Counting lines: on which side of one a point is, and whether a step from point to point goes through it. Pure."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

Direction = Literal["up", "down", "left", "right"]
Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A segment in relative coordinates of the picture: (0, 0) is its upper left corner, (1, 1) its lower right."""

    name: str
    start: Point
    end: Point

    def __post_init__(self) -> None:
        """Raises ValueError where the segment has no length or lies outside the picture."""
        if not all(0.0 <= value <= 1.0 for value in (*self.start, *self.end)):
            raise ValueError(f"line '{self.name}': {self.start} to {self.end}: expected shares of the picture, 0 to 1")
        if math.dist(self.start, self.end) < 1e-6:
            raise ValueError(f"line '{self.name}': starts and ends at {self.start}; it has no side")

    def placed(self, width: int, height: int) -> "PlacedLine":
        """The same in a picture of that size, pixels."""
        (x1, y1), (x2, y2) = self.start, self.end
        return PlacedLine(self.name, (x1 * width, y1 * height), (x2 * width, y2 * height))


MIDDLE = Line("mid", (0.0, 0.5), (1.0, 0.5))
"""What is counted where nothing is configured: what passes the middle of the picture, up or down."""


class PlacedLine(NamedTuple):
    """A line in pixels."""

    name: str
    start: Point
    end: Point

    @property
    def normal(self) -> Point:
        """The unit vector across the line."""
        (x1, y1), (x2, y2) = self.start, self.end
        length = math.hypot(x2 - x1, y2 - y1)
        return (y1 - y2) / length, (x2 - x1) / length

    def distance(self, point: Point) -> float:
        """How far a point is on the normal's side of the (endless) line; negative on the other. Pixels."""
        across_x, across_y = self.normal
        return (point[0] - self.start[0]) * across_x + (point[1] - self.start[1]) * across_y

    def passed(self, before: Point, after: Point) -> bool:
        """Whether the straight step between two points on different sides goes through the segment itself."""
        far, near = abs(self.distance(before)), abs(self.distance(after))
        share = far / (far + near) if far + near else 0.0
        x, y = (start + share * (end - start) for start, end in zip(before, after, strict=True))
        (x1, y1), (x2, y2) = self.start, self.end
        along = ((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / ((x2 - x1) ** 2 + (y2 - y1) ** 2)
        return 0.0 <= along <= 1.0

    def direction(self, to_normal_side: bool) -> Direction:
        """How it looks in the picture to pass to the normal's side, or from it."""
        across_x, across_y = self.normal if to_normal_side else (-self.normal[0], -self.normal[1])
        if abs(across_y) >= abs(across_x):
            return "down" if across_y > 0 else "up"
        return "right" if across_x > 0 else "left"
