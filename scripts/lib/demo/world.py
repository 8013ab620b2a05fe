"""The world of the demo: what its vehicles will see, and how each of them is equipped.

Everything that the starter releases were not trained on is dealt out: each vehicle replays its own signs and its own
stretch of road speeds. What the vehicles replay lies below the demo's folder, not in the repository.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roadloop_models.preprocess import ImageArray
from roadloop_models.tasks import get_task
from roadloop_models.tasks.sign_data import load_training_signs, write_signs
from roadloop_models.tasks.speed_data import SPEED_FILE, WINDOW, load_training_speeds

SIGN, SPEED = "traffic-sign", "traffic-speed"
RUNTIMES = ("onnx", "tflite")
SIGN_RATE_HZ = 25.0
SPEED_RATE_HZ = 4.0
"""Both slots have seen their part of the real data after a minute."""


@dataclass(frozen=True)
class VehiclePlan:
    """One vehicle: its id, the runtime of its slots, and the profile written for it."""

    id: str
    runtime: str
    profile: Path
    signs: int
    """Images that its camera will see."""
    speed_rows: int
    """Five-minute steps of road speeds that it will see."""
    sensors: int


def made_data(directory: Path, seed: int) -> Path:
    """Seeded made data in the layout of the real sets, for a machine without them."""
    for task in (SIGN, SPEED):
        get_task(task).write_made_data(directory, seed)
    return directory


def equip(data_dir: Path, directory: Path, vehicles: int) -> list[VehiclePlan]:
    """Deal out the part of the training rows that the starters did not see, and write a profile for each vehicle."""
    signs = load_training_signs(data_dir, "rest")
    speeds = load_training_speeds(data_dir, "rest")
    tracks = np.unique(signs.tracks)
    stretches = np.array_split(speeds.steps, vehicles)
    plans = []
    for index in range(vehicles):
        vehicle, runtime = f"van-{index + 1}", RUNTIMES[index % len(RUNTIMES)]
        folder = directory / vehicle
        folder.mkdir(parents=True, exist_ok=True)
        own = signs.take(np.isin(signs.tracks, tracks[index::vehicles]))
        write_signs(folder / "signs.npz", own)
        # A forecast needs a window of rows before it: the stretch begins that much earlier.
        first_row, last_row = max(int(stretches[index][0]) - WINDOW, 0), int(stretches[index][-1])
        profile = folder / "profile.toml"
        profile.write_text(
            _profile(runtime, folder / "signs.npz", data_dir / "losloop" / SPEED_FILE, first_row, last_row)
        )
        sensors = len(speeds.sensor_ids)
        plans.append(VehiclePlan(vehicle, runtime, profile, len(own), last_row - first_row + 1, sensors))
    return plans


def labels_by_picture(data_dir: Path) -> dict[str, tuple[int, int]]:
    """What the demo's person knows: the hash of an image's pixels -> (class id, track). Taken from the data set."""
    rows = load_training_signs(data_dir, "rest")
    labelled = zip(rows.images, rows.labels, rows.tracks, strict=True)
    return {picture_key(image): (int(label), int(track)) for image, label, track in labelled}


def picture_key(image: ImageArray) -> str:
    """SHA-256 of an image's pixels."""
    return hashlib.sha256(image.tobytes()).hexdigest()


def _profile(runtime: str, signs: Path, speeds: Path, first_row: int, last_row: int) -> str:
    return f"""\
hardware = "x86-64 demo, {runtime}"

[sources.camera]
kind = "npz"
path = "{signs}"
loop = true
pace = "as-consumed"

[sources.loops]
kind = "speeds-csv"
path = "{speeds}"
first_row = {first_row}
last_row = {last_row}
loop = true
pace = "as-consumed"

[slots.sign]
task = "{SIGN}"
runtime = "{runtime}"
precision = "int8"
source = "camera"
rate_hz = {SIGN_RATE_HZ}

[slots.sign.capture]
below_confidence = 0.9
every = 4
max_bytes_per_s = 262144

[slots.speed]
task = "{SPEED}"
runtime = "{runtime}"
precision = "int8"
source = "loops"
rate_hz = {SPEED_RATE_HZ}
"""
