"""From a record of road speeds with holes to the rows that traffic-speed learns from."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from roadloop_models.errors import DataError
from roadloop_models.preprocess import STEPS_PER_DAY, FloatArray
from roadloop_models.tasks.speed_data import FOLDER, SPEED_FILE, SpeedRows, write_speeds

LONGEST_FILLED = 12
"""Steps (an hour): a longer hole of a sensor leaves its rows out instead of being drawn through."""
STEP_NS = 300 * 10**9


def steps_of(times_ns: npt.NDArray[np.int64], path: Path) -> npt.NDArray[np.int64]:
    """Absolute steps, 0 at midnight before the first, from nanoseconds since 1970. Raises DataError off the grid."""
    if not len(times_ns) or (times_ns % STEP_NS).any() or (np.diff(times_ns) <= 0).any():
        raise DataError(f"{path}: its times do not ascend on a grid of five minutes")
    steps = times_ns // STEP_NS
    found: npt.NDArray[np.int64] = steps - steps[0] // STEPS_PER_DAY * STEPS_PER_DAY
    return found


def write_filled(
    target: Path,
    steps: npt.NDArray[np.int64],
    speeds_mph: npt.NDArray[np.float64],
    sensor_ids: tuple[str, ...],
    adjacency: FloatArray | None,
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Write speeds [rows, sensors], NaN or 0 where a sensor said nothing; returns (rows by file, notes).

    Holes of up to an hour are drawn through linearly, as T-GCN did with METR-LA; rows in a longer hole are left out.
    """
    known = np.isfinite(speeds_mph) & (speeds_mph > 0)
    dead = ~known.any(axis=0)
    if dead.all():
        raise DataError("no sensor of the record ever showed a speed")
    # A sensor that never spoke would leave every row out; its place must stay, the model counts places.
    known[:, dead] = True
    filled, usable = _fill(steps, np.where(known, np.nan_to_num(speeds_mph), 0.0), known)
    if not usable.any():
        raise DataError("no row of the record is complete; every one lies in some sensor's hole of over an hour")
    rows = SpeedRows(steps[usable], filled[usable].astype(np.float32), sensor_ids)
    write_speeds(target, rows, adjacency)
    notes = [
        f"{int((~known).sum())} of {known.size} speeds were missing; holes of up to {LONGEST_FILLED} steps are filled",
        f"{int((~usable).sum())} of {len(steps)} rows lie in longer holes and are left out",
    ]
    if dead.any():
        notes.append(f"{int(dead.sum())} sensors never showed a speed and stay at 0 mph")
    return {f"{FOLDER}/{SPEED_FILE}": len(rows)}, tuple(notes)


def _fill(
    steps: npt.NDArray[np.int64], speeds: npt.NDArray[np.float64], known: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """(speeds without holes, rows that lie in no long one)."""
    usable = np.ones(len(steps), dtype=bool)
    filled = speeds.copy()
    for sensor in range(speeds.shape[1]):
        there = np.flatnonzero(known[:, sensor])
        if len(there) == len(steps):
            continue
        filled[:, sensor] = np.interp(steps, steps[there], speeds[there, sensor])
        following = np.searchsorted(there, np.arange(len(steps)))
        after = steps[there[np.minimum(following, len(there) - 1)]]
        before = steps[there[np.maximum(following - 1, 0)]]
        missing = ~known[:, sensor]
        outside = (steps < steps[there[0]]) | (steps > steps[there[-1]])
        usable &= ~(missing & (outside | (after - before - 1 > LONGEST_FILLED)))
    return filled, usable
