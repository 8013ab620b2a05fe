"""Rows of a road detector's counts: the layout of pems_single (PeMS's own CSV export), read, split and written."""

import csv
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from roadloop_models.data_files import check_readable
from roadloop_models.errors import DataError
from roadloop_models.preprocess import FloatArray
from roadloop_models.tasks.base import Part

FOLDER = "pems_single"
TRAIN_FILE = "train.csv"
TEST_FILE = "test.csv"
TIME_COLUMN = "5 Minutes"
HEADER = (TIME_COLUMN, "Lane 1 Flow (Veh/5 Minutes)", "# Lane Points", "% Observed")
STEP = timedelta(minutes=5)
WINDOW = 12
STARTER_SHARE = 6
"""The starter part is the first sixth of the training rows."""
MAX_FLOW_VEH = 10_000.0
_TIME_FORMAT = "%d/%m/%Y %H:%M"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class FlowRows:
    """Counts of one detector: absolute steps int64 [n] (five minutes since 1970-01-01 00:00 of the detector's own
    clock, ascending) and vehicles in each, float32 [n]."""

    steps: npt.NDArray[np.int64]
    flow_veh: FloatArray

    def __len__(self) -> int:
        return len(self.steps)

    def span(self, start: int, stop: int) -> "FlowRows":
        """Rows `start` to `stop`."""
        return FlowRows(self.steps[start:stop], self.flow_veh[start:stop])

    def window_starts(self) -> npt.NDArray[np.int64]:
        """Row indices at which a window and the row after it follow each other without a missing step."""
        count = max(len(self) - WINDOW, 0)
        found: npt.NDArray[np.int64] = np.flatnonzero(self.steps[WINDOW:] - self.steps[:count] == WINDOW)
        return found


def read_flow(path: Path) -> FlowRows:
    """All rows of a CSV with a column `5 Minutes` (day/month/year hour:minute) and one of vehicles after it.

    Raises DataError naming file, line and field.
    """
    check_readable(path)
    steps, flow_veh = [], []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file)
            header = [cell.strip() for cell in next(lines, [])]
            if len(header) < 2 or header[0] != TIME_COLUMN or "Flow" not in header[1]:
                raise DataError(f"{path}: the header is {header}, expected {TIME_COLUMN!r} and a column of flow first")
            for number, cells in enumerate(lines, 2):
                if cells:
                    step, vehicles = _row(path, number, cells)
                    steps.append(step)
                    flow_veh.append(vehicles)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a table: {error}") from error
    rows = FlowRows(np.array(steps, dtype=np.int64), np.array(flow_veh, dtype=np.float32))
    if not len(rows):
        raise DataError(f"{path}: has no rows")
    fallen = np.flatnonzero(np.diff(rows.steps) <= 0)
    if len(fallen):
        raise DataError(f"{path}: '{TIME_COLUMN}' does not ascend at data row {int(fallen[0]) + 1}")
    return rows


def load_training_flow(data_dir: Path, part: Part) -> FlowRows:
    """One part of the training rows of a data folder. Raises DataError naming file and field."""
    rows = read_flow(data_dir / FOLDER / TRAIN_FILE)
    cut = len(rows) // STARTER_SHARE
    start, stop = {"starter": (0, cut), "rest": (cut, len(rows))}.get(part, (0, len(rows)))
    return rows.span(start, stop)


def load_test_flow(data_dir: Path) -> FlowRows:
    """The test rows of a data folder. Raises DataError naming file and field."""
    return read_flow(data_dir / FOLDER / TEST_FILE)


def write_flow(path: Path, rows: FlowRows) -> None:
    """Write rows in the layout that `read_flow` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(HEADER)
        for step, vehicles in zip(rows.steps.tolist(), rows.flow_veh.tolist(), strict=True):
            lines.writerow((f"{_EPOCH + step * STEP:{_TIME_FORMAT}}", f"{vehicles:g}", 1, 100))


def step_of(time: datetime) -> int:
    """The absolute step that a moment (with a time zone) is in."""
    return (time - _EPOCH) // STEP


def _row(path: Path, number: int, cells: list[str]) -> tuple[int, float]:
    try:
        time = datetime.strptime(cells[0].strip(), _TIME_FORMAT).replace(tzinfo=UTC)
        vehicles = float(cells[1])
    except (ValueError, IndexError) as error:
        raise DataError(f"{path}: line {number}: expected a time as 31/12/2016 23:55 and a count: {error}") from error
    if not 0 <= vehicles <= MAX_FLOW_VEH:  # NaN too
        raise DataError(f"{path}: line {number}: {cells[1]} vehicles in five minutes, expected 0 to {MAX_FLOW_VEH:g}")
    return step_of(time), vehicles
