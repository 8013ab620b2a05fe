"""Speeds of all road sensors, one 5-minute step at a time, with the window before it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from roadloop_agent.config import selected
from roadloop_agent.drive.frames import Item
from roadloop_models.data_files import read_table
from roadloop_models.errors import DataError
from roadloop_models.preprocess import FloatArray, SpeedWindow
from roadloop_models.tasks.made_speeds import made_speeds
from roadloop_models.tasks.speed_data import MAX_SPEED_MPH, STEP_FILE, WINDOW


@dataclass(frozen=True)
class SpeedStep:
    """What was observed in one step: float32 [sensors], mph; and the window up to it, where it is unbroken."""

    step: int
    observed_mph: FloatArray
    window: SpeedWindow | None


class SpeedsCsv:
    """Rows of a CSV under a header of sensor ids; a `los_step.csv` beside it gives the absolute step of each row.

    The number of a frame is its step; without that file the row in the file.
    """

    def __init__(self, path: Path, first_row: int = 0, last_row: int | None = None, select: str | None = None) -> None:
        """Raises DataError naming the file."""
        self.path = path
        _, speeds_mph = read_table(path, header=True)
        if speeds_mph.min() < 0 or speeds_mph.max() > MAX_SPEED_MPH:
            raise DataError(f"{path}: speeds from {speeds_mph.min():g} to {speeds_mph.max():g}, expected 0 to 200 mph")
        steps = _steps_beside(path, len(speeds_mph))
        stop = len(steps) if last_row is None else min(last_row + 1, len(steps))
        part, of = selected(select)
        cuts = np.linspace(min(first_row, stop), stop, of + 1).round().astype(int)
        span = slice(int(cuts[part]), int(cuts[part + 1]))
        self.steps, self.speeds_mph = steps[span], speeds_mph[span]
        if not len(self.steps):
            raise DataError(f"{path}: none of its {len(steps)} rows is selected")

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Item]:
        return _items(self.path.name, self.steps, self.speeds_mph)


def made(days: int, seed: int) -> Iterator[Item]:
    """Made speeds with jams, the same for the same seed."""
    rows, _ = made_speeds(days, seed)
    return _items("made", rows.steps, rows.speeds_mph)


def _items(name: str, steps: npt.NDArray[np.int64], speeds_mph: FloatArray) -> Iterator[Item]:
    for row, step in enumerate(steps.tolist()):
        first = row - WINDOW + 1
        window = None
        if first >= 0 and steps[first] == step - WINDOW + 1:
            window = SpeedWindow(speeds_mph[first : row + 1], step + 1)
        yield Item(step, f"{name}#{step}", SpeedStep(step, speeds_mph[row], window))


def _steps_beside(path: Path, rows: int) -> npt.NDArray[np.int64]:
    beside = path.with_name(STEP_FILE)
    if not beside.exists():
        return np.arange(rows)
    names, values = read_table(beside, header=True)
    steps = values[:, 0].astype(np.int64)
    if names != ("step",) or len(steps) != rows or (np.diff(steps) <= 0).any():
        raise DataError(f"{beside}: expected one column 'step', ascending, of {rows} rows as {path.name} has")
    return steps
