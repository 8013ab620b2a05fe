"""KITTI's raw drives: the OXTS navigation unit's packets, one text file of 30 numbers each, at 10 Hz (100 unsynced).

The unit fuses GNSS and inertia; what it calls the forward velocity is no odometer's.
"""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from roadloop_cloud.datasets.importers.layouts import Imported, Request
from roadloop_models.data_files import check_readable
from roadloop_models.errors import DataError
from roadloop_models.recordings import Recording, write_signals

FOLDER = "kitti_oxts"
# fmt: off
FIELDS = (
    "lat", "lon", "alt", "roll", "pitch", "yaw", "vn", "ve", "vf", "vl", "vu", "ax", "ay", "az", "af", "al", "au",
    "wx", "wy", "wz", "wf", "wl", "wu", "pos_accuracy", "vel_accuracy", "navstat", "numsats", "posmode", "velmode",
    "orimode",
)
# fmt: on
_PLAIN = {
    "lat": "CurrentLocation.Latitude",
    "lon": "CurrentLocation.Longitude",
    "alt": "CurrentLocation.Altitude",
    "pos_accuracy": "CurrentLocation.HorizontalAccuracy",
    "vf": "Speed",
    "af": "Acceleration.Longitudinal",
    "al": "Acceleration.Lateral",
    "au": "Acceleration.Vertical",
    "wf": "AngularVelocity.Roll",
    "wl": "AngularVelocity.Pitch",
    "wu": "AngularVelocity.Yaw",
}
"""KITTI's field -> VSS path; both have forward, left and up as axes, and SI units."""


def read(request: Request) -> Imported:
    """A CSV for each drive, as `roadloop-agent infer` and sources of signals read it."""
    folders = sorted(path.parent for path in request.source.rglob("oxts/timestamps.txt"))
    if not folders:
        raise DataError(f"{request.source}: has no drive with oxts/timestamps.txt")
    rows, left_out = {}, 0
    for folder in folders:
        recording, repeated = _drive(folder)
        left_out += repeated
        write_signals(request.target / FOLDER / f"{recording.name}.csv", recording)
        rows[f"{FOLDER}/{recording.name}.csv"] = len(recording.t_s)
    notes = ["Vehicle.Speed is the navigation unit's forward velocity: KITTI has no odometer"]
    if left_out:
        notes.append(f"{left_out} packets are left out: their time is not after that of the packet before")
    return Imported(("localization",), rows, tuple(notes))


def _drive(folder: Path) -> tuple[Recording, int]:
    """A drive, and how many packets of it have no time of their own."""
    times = _times(folder / "timestamps.txt")
    packets = sorted((folder / "data").glob("*.txt"))
    if len(packets) != len(times):
        raise DataError(f"{folder}: {len(packets)} packets below data/, {len(times)} lines in timestamps.txt")
    table = dict(zip(FIELDS, np.array([_packet(path) for path in packets]).T, strict=True))
    values = {f"Vehicle.{path}": table[name] for name, path in _PLAIN.items()}
    # KITTI's yaw is 0 to the east and grows anticlockwise; a course is 0 to the north and grows clockwise.
    values["Vehicle.CurrentLocation.Heading"] = (math.pi / 2 - table["yaw"]) % (2 * math.pi)
    values["Vehicle.CurrentLocation.Speed"] = np.hypot(table["vn"], table["ve"])
    first = np.concatenate([[True], times[1:] > np.maximum.accumulate(times)[:-1]])
    kept = {path: column[first] for path, column in values.items()}
    return Recording(folder.parent.name, times[first], kept), int((~first).sum())


def _times(path: Path) -> npt.NDArray[np.float64]:
    """Seconds since the first packet."""
    check_readable(path)
    try:
        stamps = np.array([line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()])
        times_ns = stamps.astype("datetime64[ns]").astype(np.int64)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not times of KITTI: {error}") from error
    if not len(times_ns):
        raise DataError(f"{path}: has no times")
    seconds: npt.NDArray[np.float64] = (times_ns - times_ns[0]) / 1e9
    return seconds


def _packet(path: Path) -> list[float]:
    check_readable(path)
    try:
        values = [float(word) for word in path.read_text(encoding="utf-8").split()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no OXTS packet: {error}") from error
    if len(values) != len(FIELDS):
        raise DataError(f"{path}: {len(values)} numbers, an OXTS packet has {len(FIELDS)}")
    return values
