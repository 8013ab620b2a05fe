"""comma2k19 as comma.ai publishes it: segments of a minute, each a tree of numpy arrays without a file extension."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from roadloop_cloud.datasets.importers.layouts import Imported, Request
from roadloop_models.data_files import check_readable
from roadloop_models.errors import DataError
from roadloop_models.tasks.localization_data import FOLDER as ODOMETER_FOLDER
from roadloop_models.tasks.localization_data import SPEED_FILE, OdometerRows, write_odometer

FOLDER = "comma2k19"
SENSORS = ("speed", "wheel_speed", "steering_angle")
INERTIA = ("accelerometer", "gyro")
POSES = ("frame_times", "frame_positions", "frame_velocities")
RAW = ("t", "src", "address", "data")
PAUSE_S = 10.0
"""Between segments in the odometer record: they do not follow each other."""

_Arrays = dict[str, npt.NDArray[np.generic]]


def read(request: Request) -> Imported:
    """Each segment as an npz, and the odometer beside the reference speed of all of them as one record."""
    segments = sorted((path.parent for path in request.source.rglob("processed_log") if path.is_dir()), key=_order)
    if not segments:
        raise DataError(f"{request.source}: has no segment with a folder processed_log")
    rows, odometer, start_s = {}, [], 0.0
    for segment in segments:
        arrays = dict(_segment(segment))
        name = re.sub(r"[^\w.-]+", "_", f"{segment.parent.name}_{segment.name}")
        path = request.target / FOLDER / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, allow_pickle=False, **arrays)
        rows[f"{FOLDER}/{path.name}"] = len(arrays["frame_times"])
        part = _odometer(arrays, start_s)
        odometer.append(part)
        start_s = float(part.t_s[-1]) + PAUSE_S
    joined = OdometerRows(
        *(np.concatenate([getattr(part, name) for part in odometer]) for name in OdometerRows.__dataclass_fields__)
    )
    write_odometer(request.target, joined)
    rows[f"{ODOMETER_FOLDER}/{SPEED_FILE}"] = len(joined)
    note = f"{len(segments)} segments; the odometer record has the speed on CAN beside that of the camera's poses"
    return Imported(("localization",), rows, (note,))


def _order(segment: Path) -> tuple[str, int, str]:
    """By route, then by the number of the minute."""
    number = int(segment.name) if segment.name.isdecimal() else 0
    return str(segment.parent), number, segment.name


def _segment(segment: Path) -> Iterator[tuple[str, npt.NDArray[np.generic]]]:
    log = segment / "processed_log"
    for kind, names in (("CAN", SENSORS), ("IMU", INERTIA)):
        for name in names:
            times, values = (_array(log / kind / name / part, "f") for part in ("t", "value"))
            if len(times) != len(values):
                raise DataError(f"{log / kind / name}: {len(values)} values of {len(times)} times")
            yield f"{kind}_{name}_t", times
            yield f"{kind}_{name}_value", values
    for name in POSES:
        yield name, _array(segment / "global_pose" / name, "f")
    raw = {name: _array(log / "CAN" / "raw_can" / name, "S" if name == "data" else "fiu") for name in RAW}
    if len({len(array) for array in raw.values()}) != 1:
        raise DataError(f"{log / 'CAN' / 'raw_can'}: its arrays differ in length")
    for name, array in raw.items():
        yield f"raw_can_{name}", array


def _array(path: Path, kinds: str) -> npt.NDArray[np.generic]:
    check_readable(path)
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: truncated, or no plain numpy array: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds or not array.ndim or not len(array):
        raise DataError(f"{path}: is {getattr(array, 'dtype', type(array).__name__)}, expected an array of rows")
    return array


def _odometer(arrays: _Arrays, start_s: float) -> OdometerRows:
    """The speed on CAN at the times of the poses, between its first and its last."""
    times, can = arrays["CAN_speed_t"].astype(np.float64), arrays["CAN_speed_value"].astype(np.float64).reshape(-1)
    poses, velocities = arrays["frame_times"].astype(np.float64), arrays["frame_velocities"].astype(np.float64)
    covered = (poses >= times[0]) & (poses <= times[-1])
    if covered.sum() < 2:
        raise DataError("a segment's CAN speeds and poses are not of the same minute")
    t_s = poses[covered]
    reference = np.linalg.norm(velocities[covered], axis=1)
    return OdometerRows(t_s - t_s[0] + start_s, np.interp(t_s, times, can), reference)
