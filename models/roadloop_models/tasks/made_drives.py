"""Made drives: a car in town traffic whose odometer and gyro err in the ways of real ones.

The odometer has a wrong scale, says 0 below a walking speed, comes a little late and in steps of 1 km/h that are cut
off, not rounded: a bias that a network can learn. The gyro has a constant bias and noise.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from roadloop_models.geodesy import ecef_from_geodetic, enu_axes
from roadloop_models.localization.trace import PERIOD_S
from roadloop_models.tasks.localization_data import CITY_FILE, OdometerRows

FloatArray = npt.NDArray[np.float64]
_STEP_MPS = 1 / 3.6
_DEADBAND_MPS = 0.7
_START_DEG = (50.0, 8.0)


@dataclass(frozen=True)
class MadeDrive:
    """Truth and signals, one row every PERIOD_S: float64 [n] each."""

    rows: OdometerRows
    yaw_rate_rps: FloatArray
    """Of the gyro, positive to the left."""
    east_m: FloatArray
    north_m: FloatArray


def made_drive(seconds: float, seed: int, scale: float = 0.004, gyro_bias_rps: float = 0.0015) -> MadeDrive:
    """Stop and go with turns; equal seeds give equal drives."""
    generator = np.random.Generator(np.random.PCG64(seed))
    count = int(seconds / PERIOD_S) + 1
    speed, turn = _traffic(count, generator)
    heading = np.cumsum(turn) * PERIOD_S
    late = np.concatenate([speed[:1], speed[:-1]])
    seen = (0.6 * speed + 0.4 * late) * (1.0 + scale) + generator.normal(0.0, 0.03, size=count)
    steps = np.where(seen < _DEADBAND_MPS, 0, np.floor(seen / _STEP_MPS))
    odometer = (_STEP_MPS * steps).astype(np.float64)
    t_s = (PERIOD_S * np.arange(count)).astype(np.float64)
    middle = heading - turn * PERIOD_S / 2
    steps_m = np.concatenate([[0.0], PERIOD_S * (speed[1:] + speed[:-1]) / 2])
    # The heading turns clockwise from north, the gyro's rate is positive to the left.
    return MadeDrive(
        OdometerRows(t_s, odometer, speed),
        -turn + gyro_bias_rps + generator.normal(0.0, 0.004, size=count),
        np.cumsum(steps_m * np.sin(middle)),
        np.cumsum(steps_m * np.cos(middle)),
    )


def write_city_drive(data_dir: Path, drive: MadeDrive) -> None:
    """Write odometer, gyro and positions in the layout of smartloc_berlin: odom.txt, and gt.txt beside it."""
    path = data_dir / CITY_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    origin = ecef_from_geodetic(np.array([_START_DEG[0]]), np.array([_START_DEG[1]]), np.zeros(1))[0]
    local = np.stack([drive.east_m, drive.north_m, np.zeros(len(drive.rows))], axis=1)
    ecef_m = origin + local @ enu_axes(*_START_DEG)
    odometer = [
        f"odom3 {t:.3f} {v:.9g} 0 0 0 0 {w:.9g}"
        for t, v, w in zip(drive.rows.t_s, drive.rows.odometer_mps, drive.yaw_rate_rps, strict=True)
    ]
    truth = [f"point3 {t:.3f} {x:.4f} {y:.4f} {z:.4f}" for t, (x, y, z) in zip(drive.rows.t_s, ecef_m, strict=True)]
    path.write_text("\n".join(odometer) + "\n")
    path.with_name("gt.txt").write_text("\n".join(truth) + "\n")


def _traffic(count: int, generator: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """(speed m/s, turn rate rad/s clockwise): towards one target speed after the other, with curves on the way."""
    speed, turn = np.zeros(count), np.zeros(count)
    target = left = rate = 0.0
    for row in range(1, count):
        if left <= 0.0:
            stands = target > 0.0 and generator.uniform() < 0.35
            target = 0.0 if stands else float(generator.uniform(3.0, 15.0))
            left = float(generator.uniform(8.0, 25.0))
            rate = float(generator.normal(0.0, 0.15)) if generator.uniform() < 0.5 else 0.0
        left -= PERIOD_S
        wanted = np.clip((target - speed[row - 1]) / 3.0, -2.0, 1.5)
        speed[row] = max(speed[row - 1] + wanted * PERIOD_S, 0.0)
        if target == 0.0 and speed[row] < 0.15:
            speed[row] = 0.0
        turn[row] = 0.9 * turn[row - 1] + 0.1 * rate * min(speed[row] / 5.0, 1.0)
    return speed, turn
