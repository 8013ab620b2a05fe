"""Rows of road speeds: the layout of losloop (a CSV of five-minute steps by sensors), read, split and written."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from roadloop_models.data_files import read_table
from roadloop_models.errors import DataError
from roadloop_models.preprocess import FloatArray
from roadloop_models.tasks.base import Part

FOLDER = "losloop"
SPEED_FILE = "los_speed.csv"
ADJACENCY_FILE = "los_adj.csv"
STEP_FILE = "los_step.csv"
"""Beside the speeds of a snapshot: the absolute step of each row, which may leave steps out."""
TRAIN_SHARE = 0.8
STARTER_SHARE = 6
"""The starter part is the first sixth of the training rows, 22 hours: more is hard to improve on."""
WINDOW = 12
HORIZON = 12
MAX_SPEED_MPH = 200.0


@dataclass(frozen=True)
class SpeedRows:
    """Speeds by step: absolute steps int64 [n] ascending (step 0 is 00:00), mph float32 [n, sensors], sensor ids."""

    steps: npt.NDArray[np.int64]
    speeds_mph: FloatArray
    sensor_ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.steps)

    def span(self, start: int, stop: int) -> "SpeedRows":
        """Rows `start` to `stop`."""
        return SpeedRows(self.steps[start:stop], self.speeds_mph[start:stop], self.sensor_ids)

    def window_starts(self, length: int = WINDOW + HORIZON) -> npt.NDArray[np.int64]:
        """Row indices at which `length` rows follow each other without a missing step."""
        count = max(len(self) - length + 1, 0)
        starts = np.arange(count)
        unbroken = self.steps[length - 1 :][:count] - self.steps[:count] == length - 1
        found: npt.NDArray[np.int64] = starts[unbroken]
        return found


def load_speeds(data_dir: Path) -> SpeedRows:
    """All rows of a data folder. Raises DataError naming file and field."""
    path = data_dir / FOLDER / SPEED_FILE
    sensor_ids, speeds_mph = read_table(path, header=True)
    if speeds_mph.min() < 0 or speeds_mph.max() > MAX_SPEED_MPH:
        raise DataError(f"{path}: speeds from {speeds_mph.min():g} to {speeds_mph.max():g}, expected 0 to 200 mph")
    if len(set(sensor_ids)) != len(sensor_ids):
        raise DataError(f"{path}: a sensor id is twice in the header")
    return SpeedRows(_load_steps(data_dir, len(speeds_mph)), speeds_mph, sensor_ids)


def load_adjacency(data_dir: Path, sensors: int) -> FloatArray | None:
    """Weights between sensors, float32 [sensors, sensors]; None where a snapshot carries none."""
    path = data_dir / FOLDER / ADJACENCY_FILE
    if not path.exists():
        return None
    _, weights = read_table(path, header=False)
    if weights.shape != (sensors, sensors) or (weights < 0).any():
        raise DataError(f"{path}: {list(weights.shape)} weights, expected {sensors} x {sensors}, none below 0")
    return weights


def load_training_speeds(data_dir: Path, part: Part) -> SpeedRows:
    """One part of the training rows of a data folder. Raises DataError naming file and field.

    The published training split is the first 80 % of the rows; the starter part is the first sixth of that.
    """
    rows = load_speeds(data_dir)
    if part == "snapshot":
        return rows
    stop = first_test_row(rows)
    starter_stop = stop // STARTER_SHARE
    start, stop = {"all": (0, stop), "starter": (0, starter_stop), "rest": (starter_stop, stop)}[part]
    return rows.span(start, stop)


def load_test_speeds(data_dir: Path) -> SpeedRows:
    """The test rows of a data folder: the last 20 %. Raises DataError naming file and field."""
    rows = load_speeds(data_dir)
    return rows.span(first_test_row(rows), len(rows))


def first_test_row(rows: SpeedRows) -> int:
    """Where the test rows of a whole record begin."""
    return int(len(rows) * TRAIN_SHARE)


def write_speeds(data_dir: Path, rows: SpeedRows, adjacency: FloatArray | None = None, with_steps: bool = True) -> None:
    """Write rows in the layout that `load_speeds` reads."""
    folder = data_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    header = ",".join(rows.sensor_ids)
    np.savetxt(folder / SPEED_FILE, rows.speeds_mph, fmt="%.7g", delimiter=",", header=header, comments="")
    if with_steps:
        np.savetxt(folder / STEP_FILE, rows.steps, fmt="%d", header="step", comments="")
    if adjacency is not None:
        np.savetxt(folder / ADJACENCY_FILE, adjacency, fmt="%.7g", delimiter=",")


def _load_steps(data_dir: Path, rows: int) -> npt.NDArray[np.int64]:
    path = data_dir / FOLDER / STEP_FILE
    if not path.exists():
        return np.arange(rows)
    names, values = read_table(path, header=True)
    steps = values[:, 0].astype(np.int64)
    if names != ("step",) or len(steps) != rows:
        raise DataError(
            f"{path}: column {names} of {len(steps)} rows, expected 'step' of {rows}, one per row of speeds"
        )
    if steps[0] < 0 or (np.diff(steps) <= 0).any():
        raise DataError(f"{path}: steps must start at 0 or later and ascend")
    return steps
