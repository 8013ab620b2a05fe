"""Drives of an odometer beside a reference: the layout of obd_speed_ref (a CSV), read, split by time and written."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from roadloop_models.errors import DataError
from roadloop_models.localization.outages import Drive
from roadloop_models.localization.sample import SampleReader
from roadloop_models.localization.trace import PERIOD_S
from roadloop_models.recordings import read_layout
from roadloop_models.tasks.base import Part

FloatArray = npt.NDArray[np.float64]
FOLDER = "obd_speed_ref"
SPEED_FILE = "K19_1_speed.csv"
CITY_FILE = Path("smartloc_berlin") / "odom.txt"
"""Odometer, gyro and positions of a town: only ever judged on."""
HIGHWAY_FILE = Path("comma2k19") / "segment40.npz"
"""CAN, gyro and positions of a highway: only ever judged on."""
TEST_SHARE = 0.4
"""The first rows of the drive. The later ones teach: most of the crawling in queues, where odometers err most."""
STARTER_SHARE = 3
"""The starter part is the first third of the training rows."""
ODOMETER, REFERENCE = "Vehicle.Speed", "Vehicle.CurrentLocation.Speed"
_LONGEST_STEP_S = 0.5


@dataclass(frozen=True)
class OdometerRows:
    """Speeds of an odometer beside those of a reference: seconds (ascending) and m/s, float64 [n] each."""

    t_s: FloatArray
    odometer_mps: FloatArray
    reference_mps: FloatArray

    def __len__(self) -> int:
        return len(self.t_s)

    def span(self, start: int, stop: int) -> "OdometerRows":
        """Rows `start` to `stop`."""
        return OdometerRows(self.t_s[start:stop], self.odometer_mps[start:stop], self.reference_mps[start:stop])

    def take(self, mask: npt.NDArray[np.bool_]) -> "OdometerRows":
        """The rows where `mask` is true."""
        return OdometerRows(self.t_s[mask], self.odometer_mps[mask], self.reference_mps[mask])

    def stretches(self) -> Iterator["OdometerRows"]:
        """Unbroken stretches, interpolated to one row every PERIOD_S."""
        edges = [0, *(np.flatnonzero(np.diff(self.t_s) > _LONGEST_STEP_S) + 1), len(self)]
        for start, stop in pairwise(edges):
            part = self.span(start, stop)
            steps = int((part.t_s[-1] - part.t_s[0]) / PERIOD_S + 1e-6) if len(part) else 0
            grid = part.t_s[0] + PERIOD_S * np.arange(steps + 1)
            yield OdometerRows(
                grid, np.interp(grid, part.t_s, part.odometer_mps), np.interp(grid, part.t_s, part.reference_mps)
            )


def load_odometer(data_dir: Path) -> OdometerRows:
    """All rows of a data folder that have both speeds. Raises DataError naming file and field."""
    path = data_dir / FOLDER / SPEED_FILE
    recording = next(read_layout(path))
    for name in (ODOMETER, REFERENCE):
        if name not in recording.values:
            raise DataError(f"{path}: has no column for {name}; expected gps_sec, ref_vf and obd_speed")
    odometer, reference = recording.values[ODOMETER], recording.values[REFERENCE]
    known = np.isfinite(odometer) & np.isfinite(reference) & np.isfinite(recording.t_s)
    rows = OdometerRows(recording.t_s[known], odometer[known], reference[known])
    if len(rows) < 2:
        raise DataError(f"{path}: {len(rows)} rows have both speeds")
    if (np.diff(rows.t_s) <= 0).any():
        raise DataError(f"{path}: 'gps_sec' does not ascend at data row {int(np.argmax(np.diff(rows.t_s) <= 0)) + 1}")
    return rows


def load_training_odometer(data_dir: Path, part: Part) -> OdometerRows:
    """One part of the training rows: the last 60 % of the drive. Raises DataError naming file and field."""
    rows = load_odometer(data_dir)
    if part == "snapshot":
        return rows
    first, stop = int(len(rows) * TEST_SHARE), len(rows)
    starter_stop = first + (stop - first) // STARTER_SHARE
    start, stop = {"all": (first, stop), "starter": (first, starter_stop), "rest": (starter_stop, stop)}[part]
    return rows.span(start, stop)


def judged_until_s(data_dir: Path) -> float:
    """Where the test rows end, in seconds after the first row of the drive."""
    rows = load_odometer(data_dir)
    return float(rows.t_s[int(len(rows) * TEST_SHARE) - 1] - rows.t_s[0])


def write_odometer(data_dir: Path, rows: OdometerRows) -> None:
    """Write rows in the layout that `load_odometer` reads."""
    folder = data_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    table = np.stack([rows.t_s, rows.reference_mps, rows.odometer_mps], axis=1)
    np.savetxt(
        folder / SPEED_FILE,
        table,
        fmt=("%.3f", "%.6f", "%.6f"),
        delimiter=",",
        header="gps_sec,ref_vf,obd_speed",
        comments="",
    )


def load_drive(path: Path) -> Drive:
    """A recorded drive with its truth. Raises DataError where the file is of no layout that is known."""
    reader = SampleReader()
    return Drive([reader(t_s, values) for t_s, values in next(read_layout(path)).rows()])
