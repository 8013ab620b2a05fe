"""traffic-speed: from samples of the stream `road-speed` to one record of steps by sensors. Pure.

Vehicles see the same sensors. What one says twice counts once. Where several say something about one sensor and step,
the median of what they said is taken (the lower one of two), so neither the order of arrival nor one wrong vehicle
decides.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from roadloop_cloud.datasets.origins import RowOrigin
from roadloop_cloud.datasets.quality import STUCK_STEPS, far_vehicles, finding, found, stuck
from roadloop_cloud.datasets.snapshot import Content, Gap
from roadloop_cloud.datasets.splits import Shares, by_time
from roadloop_models.contract.streams import ROAD_SPEED, SPEEDS_PER_SAMPLE
from roadloop_models.errors import DataError
from roadloop_models.preprocess import FloatArray
from roadloop_models.tasks.speed_data import MAX_SPEED_MPH, SpeedRows

MAX_STEP = 100 * 366 * 288
"""A hundred years of five-minute steps; what claims to be later is nonsense."""

_Ints = npt.NDArray[np.int64]
_SPEED_RESOLUTION = ROAD_SPEED.fields[2].resolution


@dataclass(frozen=True)
class Observations:
    """Samples of all vehicles: vehicle ids [n], steps [n], first sensors [n], speeds mph [n, SPEEDS_PER_SAMPLE]."""

    vehicles: npt.NDArray[np.str_]
    steps: npt.NDArray[np.float64]
    first_sensors: npt.NDArray[np.float64]
    speeds_mph: npt.NDArray[np.float64]

    @classmethod
    def from_table(cls, table: pa.Table) -> "Observations":
        """From the columns of the stream. Raises DataError where the fleet sent none."""
        if table.num_rows == 0:
            raise DataError(f"stream {ROAD_SPEED.name}: nothing is stored yet, so there is nothing to train on")
        speeds = [table[f"speed_{index}_mph"].to_numpy() for index in range(SPEEDS_PER_SAMPLE)]
        return cls(
            np.asarray(table["vehicle"].to_pylist()),
            table["step"].to_numpy(),
            table["first_sensor"].to_numpy(),
            np.stack(speeds, axis=1),
        )


def assemble(
    observed: Observations, sensors: int, held_out_steps: Collection[int], shares: Shares
) -> tuple[SpeedRows, Content]:
    """One complete row per step, and what was left out. The last steps are for test, those before for validation.

    A step of which a sensor is missing gives no row. Steps of `held_out_steps` are dropped first of all: nothing of
    them may be trained on. Raises DataError where no complete step remains.
    """
    steps, sensor, speeds, vehicle, names, malformed = _cells(observed, sensors)
    kept = np.isin(steps, np.asarray(list(held_out_steps), dtype=np.int64), invert=True)
    held_out = len(np.unique(steps[~kept]))
    steps, sensor, speeds, vehicle = steps[kept], sensor[kept], speeds[kept], vehicle[kept]
    steps, sensor, speeds, vehicle, contradicting = _once(steps, sensor, speeds, vehicle)
    present = np.unique(steps)
    row = np.searchsorted(present, steps)
    matrix, differing = _median(row * sensors + sensor, speeds, len(present) * sensors)
    matrix = matrix.reshape(len(present), sensors)
    complete = ~np.isnan(matrix.sum(axis=1))
    if not complete.any():
        raise DataError(
            f"stream {ROAD_SPEED.name}: of {len(present)} steps none has all {sensors} sensors ({held_out} held out)"
        )
    rows = SpeedRows(present[complete], matrix[complete], tuple(str(index) for index in range(sensors)))
    used = complete[row]
    sources = {str(name): len(np.unique(row[used & (vehicle == index)])) for index, name in enumerate(names)}
    excluded = {
        "held-out": held_out,
        "incomplete": int((~complete).sum()),
        "malformed": malformed,
        "overlaps-that-differ": differing,
        "contradicts-itself": contradicting,
    }
    content = Content(
        rows=len(rows),
        sources={name: count for name, count in sources.items() if count},
        excluded={reason: count for reason, count in excluded.items() if count},
        gaps=gaps_of(rows.steps),
        split_by="time",
        origins=step_origins(rows.steps, shares),
        findings=found(
            finding("stuck-sensor", stuck(rows.speeds_mph, rows.steps), detail=f"{STUCK_STEPS} equal steps or more"),
            finding("vehicle-far-from-others", far_vehicles(row * sensors + sensor, speeds, vehicle, names.tolist())),
        ),
    )
    return rows, content


def step_origins(steps: _Ints, shares: Shares) -> list[RowOrigin]:
    """Rows of steps that ascend, split by time."""
    names = [f"step {step}" for step in steps.tolist()]
    placed = by_time([(name,) for name in names], steps.tolist(), shares)
    return [RowOrigin(name, place.split, place.group) for name, place in zip(names, placed, strict=True)]


def _cells(
    observed: Observations, sensors: int
) -> tuple[_Ints, _Ints, npt.NDArray[np.float64], _Ints, npt.NDArray[np.str_], int]:
    """One entry per speed: step, sensor, mph, index of the vehicle; then the vehicles' names, and what was no speed."""
    names, vehicle = np.unique(observed.vehicles, return_inverse=True)
    steps = np.repeat(observed.steps, SPEEDS_PER_SAMPLE)
    sensor = (observed.first_sensors[:, None] + np.arange(SPEEDS_PER_SAMPLE)).ravel()
    speeds = observed.speeds_mph.ravel()
    said = np.isfinite(speeds)
    with np.errstate(invalid="ignore"):
        sound = (speeds >= 0) & (speeds <= MAX_SPEED_MPH) & (steps >= 0) & (steps <= MAX_STEP)
        sound &= (sensor >= 0) & (sensor < sensors) & (steps == np.floor(steps)) & (sensor == np.floor(sensor))
    chosen = said & sound
    vehicles = np.repeat(vehicle.astype(np.int64), SPEEDS_PER_SAMPLE)[chosen]
    malformed = int((said & ~sound).sum())
    return steps[chosen].astype(np.int64), sensor[chosen].astype(np.int64), speeds[chosen], vehicles, names, malformed


def _once(
    steps: _Ints, sensor: _Ints, speeds: npt.NDArray[np.float64], vehicle: _Ints
) -> tuple[_Ints, _Ints, npt.NDArray[np.float64], _Ints, int]:
    """The first word of each vehicle about each sensor and step: who repeats itself shall not outvote others.

    The last sample of a step repeats sensors by design; only words that differ from the first are counted.
    """
    key = np.stack([vehicle, steps, sensor])
    _, first, place = np.unique(key, axis=1, return_index=True, return_inverse=True)
    contradicting = int((np.abs(speeds - speeds[first][place.reshape(-1)]) > _SPEED_RESOLUTION / 2).sum())
    first.sort()
    return steps[first], sensor[first], speeds[first], vehicle[first], contradicting


def _median(cell: _Ints, speeds: npt.NDArray[np.float64], cells: int) -> tuple[FloatArray, int]:
    """The lower median of each cell float32 [cells], NaN where it has none; and how many cells disagree."""
    order = np.lexsort((speeds, cell))
    ordered, values = cell[order], speeds[order]
    found, start, count = np.unique(ordered, return_index=True, return_counts=True)
    matrix = np.full(cells, np.nan, dtype=np.float32)
    matrix[found] = values[start + (count - 1) // 2]
    spread = values[start + count - 1] - values[start]
    return matrix, int((spread > _SPEED_RESOLUTION / 2).sum())


def gaps_of(steps: _Ints) -> tuple[Gap, ...]:
    """Where steps that ascend leave some out."""
    jumps = np.flatnonzero(np.diff(steps) > 1)
    return tuple(Gap(int(steps[index]) + 1, int(steps[index + 1]) - 1) for index in jumps)
