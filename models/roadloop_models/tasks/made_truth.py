"""The crossings of a made clip, from where its vehicles were drawn: found by another code than the one that counts."""

from collections.abc import Sequence
from dataclasses import dataclass

from roadloop_models.counting.counter import Crossing
from roadloop_models.counting.lines import Line, PlacedLine, Point
from roadloop_models.tasks.clip_data import TrueCrossing
from roadloop_models.tasks.made_traffic import MadeVehicle

CLEAR_FRAMES = 5
"""A crossing is certain where the vehicle is clear in as many frames on either side of it."""
_NEAR_FRAMES = 5


@dataclass(frozen=True)
class MadeTruth:
    """What must be counted, and what may be: vehicles that are hardly in the picture, or only just before its end."""

    crossings: tuple[TrueCrossing, ...]
    doubtful: tuple[TrueCrossing, ...]

    def judged(self, told: Sequence[Crossing]) -> list[Crossing]:
        """What was told, without what is likely to mean a doubtful crossing."""
        left = list(told)
        for doubtful in self.doubtful:
            for crossing in left:
                near = abs(crossing.frame - doubtful.frame) <= _NEAR_FRAMES
                if near and crossing.direction == doubtful.direction and not self._is_certain(crossing):
                    left.remove(crossing)
                    break
        return left

    def _is_certain(self, told: Crossing) -> bool:
        return any(true.frame == told.frame and true.direction == told.direction for true in self.crossings)


def made_truth(frames: Sequence[Sequence[MadeVehicle]], line: Line, width: int, height: int) -> MadeTruth:
    """The crossings of `line` by vehicles that were drawn frame by frame into a picture of that size."""
    placed = line.placed(width, height)
    paths: dict[int, dict[int, MadeVehicle]] = {}
    for number, vehicles in enumerate(frames):
        for vehicle in vehicles:
            paths.setdefault(vehicle.number, {})[number] = vehicle
    certain: list[TrueCrossing] = []
    doubtful: list[TrueCrossing] = []
    for path in paths.values():
        passes = [number for number in path if number - 1 in path and _passes(path, number, placed)]
        for number in passes:
            crossing = TrueCrossing(number, placed.direction(placed.distance(_centre(path[number])) > 0))
            around = range(number - CLEAR_FRAMES, number + CLEAR_FRAMES)
            clear = all(frame in path and path[frame].clear for frame in around)
            (certain if clear and len(passes) == 1 else doubtful).append(crossing)
    return MadeTruth(tuple(sorted(certain, key=_by_frame)), tuple(sorted(doubtful, key=_by_frame)))


def _passes(path: dict[int, MadeVehicle], number: int, line: PlacedLine) -> bool:
    before, after = _centre(path[number - 1]), _centre(path[number])
    changed = (line.distance(before) > 0) != (line.distance(after) > 0)
    return changed and line.passed(before, after)


def _centre(vehicle: MadeVehicle) -> Point:
    x1, y1, x2, y2 = vehicle.box
    return (x1 + x2) / 2.0, (y1 + y2) / 2.0


def _by_frame(crossing: TrueCrossing) -> int:
    return crossing.frame
