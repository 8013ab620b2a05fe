"""localization: dead reckoning through a GNSS outage from odometer and gyro, with a network that knows the odometer."""

from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Literal

import numpy as np

from roadloop_models.bundle import Bundle, Manifest, Variant
from roadloop_models.errors import DataError
from roadloop_models.localization import Drift, DriftPostprocess, SpeedTrace, SpeedTracePreprocess
from roadloop_models.localization.outages import Drive, Ended
from roadloop_models.preprocess import preprocess_of
from roadloop_models.runners import Runner
from roadloop_models.tasks.base import Evaluation, Part, Progress, no_progress
from roadloop_models.tasks.localization_data import (
    CITY_FILE,
    FOLDER,
    HIGHWAY_FILE,
    SPEED_FILE,
    judged_until_s,
    load_drive,
    load_odometer,
    load_training_odometer,
    write_odometer,
)
from roadloop_models.tasks.made_drives import made_drive, write_city_drive


@dataclass(frozen=True)
class Plan:
    """Which outages are made in a drive."""

    lengths_s: tuple[float, ...]
    seen_s: float
    """Of reference before the first one."""
    every_s: float

    def starts(self, drive: Drive, end_s: float = inf) -> dict[int, tuple[float, ...]]:
        """Row -> lengths of the outages that begin there; all end by `end_s` after the first row."""
        starts: dict[int, tuple[float, ...]] = {}
        for length_s in self.lengths_s:
            for row in drive.starts(length_s, self.seen_s, self.every_s, end_s):
                starts[row] = (*starts.get(row, ()), length_s)
        return starts


ODOMETER = Plan((60.0, 180.0), seen_s=60.0, every_s=5.0)
CITY = Plan((30.0, 60.0), seen_s=60.0, every_s=5.0)
HIGHWAY = Plan((20.0,), seen_s=15.0, every_s=1.0)
MADE_S, MADE_CITY_S = 1500.0, 200.0
CLUSTER_S = 120.0
"""Outages of 60 s that begin within two minutes share most of what they are judged on."""


class Localization:
    """An LSTM on top of kinematic integration.

    The protocol: the reference is hidden for 60 or 180 s, beginning every 5 s of the test rows (the first 40 % of
    the drive in obd_speed_ref). What came before calibrates. The error is that of the distance dead reckoned in the
    outage; `plain_…` is plain integration of the odometer through the very same outages. Where the data folder has
    them, smartloc_berlin (30 and 60 s, every 5 s, after 60 s) and comma2k19 (20 s, every second, after 15 s) are judged
    too, by the position at the outage's end; neither is trained on.
    """

    name = "localization"
    metric = "along_m_60s"
    higher_is_better = False

    def preprocessor(self, manifest: Manifest) -> SpeedTracePreprocess:
        """`SpeedTrace` -> input tensors. Raises BundleError where the manifest names another function."""
        return preprocess_of(manifest, SpeedTracePreprocess)

    def postprocessor(self, bundle: Bundle) -> DriftPostprocess:
        """Output tensors -> `Drift`."""
        return DriftPostprocess()

    def evaluate(
        self, bundle: Bundle, variant: Variant, runner: Runner, data_dir: Path, progress: Progress = no_progress
    ) -> Evaluation:
        """`along_m_60s`, `along_m_180s` (means), `within_sigma_60s` (the share of outages whose error is below the
        sigma told; 0.68 where it is right) and for the town `position_percent_60s`: error / distance, of the sums.

        Raises DataError naming file and field.
        """
        preprocess, postprocess = self.preprocessor(bundle.manifest), self.postprocessor(bundle)
        window = preprocess.window

        def estimate_drift(trace: SpeedTrace) -> Drift:
            return postprocess(runner.run(preprocess(trace)))

        path = data_dir / FOLDER / SPEED_FILE
        drive = load_drive(path)
        found = drive.run(ODOMETER.starts(drive, judged_until_s(data_dir)), window, estimate_drift, progress)
        metrics: dict[str, float] = {}
        for length_s in ODOMETER.lengths_s:
            if length_s not in found:
                raise DataError(f"{path}: its test rows hold no outage of {length_s:g} s")
            metrics |= _along_figures(found[length_s], f"{length_s:g}s")
        count = sum(len(ended) for ended in found.values())
        judged = found[ODOMETER.lengths_s[0]]
        for prefix, file, plan in (("", CITY_FILE, CITY), ("highway_", HIGHWAY_FILE, HIGHWAY)):
            if (data_dir / file).exists():
                drive = load_drive(data_dir / file)
                found = drive.run(plan.starts(drive), window, estimate_drift, no_progress)
                for length_s, ended in sorted(found.items()):
                    metrics |= _position_figures(ended, f"{length_s:g}s", prefix)
                    count += len(ended)
        return Evaluation(metrics, count, **_judged(judged, ODOMETER.lengths_s[0]))

    def row_keys(self, data_dir: Path, part: Part | Literal["test"]) -> frozenset[bytes]:
        """The moments of the rows, in milliseconds of the reference's clock."""
        if part == "test":
            rows = load_odometer(data_dir)
            rows = rows.take(rows.t_s <= rows.t_s[0] + judged_until_s(data_dir))
        else:
            rows = load_training_odometer(data_dir, part)
        return frozenset(moment.tobytes() for moment in np.rint(1000 * rows.t_s).astype(np.int64))

    def write_part(self, data_dir: Path, part: Part, directory: Path) -> int:
        """Write one part of the training rows as a snapshot; returns their number."""
        rows = load_training_odometer(data_dir, part)
        write_odometer(directory, rows)
        return len(rows)

    def write_made_data(self, directory: Path, seed: int) -> None:
        """A made drive of 25 minutes with a reference speed, and one of 200 s with positions."""
        write_odometer(directory, made_drive(MADE_S, seed).rows)
        write_city_drive(directory, made_drive(MADE_CITY_S, seed + 1, scale=-0.006))


def _judged(ended: list[Ended], length_s: float) -> dict[str, Any]:
    """What two models are compared by: outages of the first length, of which those that overlap are alike."""
    mps = np.array([one.distance_m for one in ended]) / length_s
    return {
        "losses": np.array([one.along_m for one in ended], dtype=np.float32),
        "clusters": (np.array([one.start_s for one in ended]) // CLUSTER_S).astype(np.int64),
        "slices": {"speed": np.select([mps < 5, mps < 14], ["below 5 m/s", "5 to 14 m/s"], "14 m/s and more")},
    }


def _along_figures(ended: list[Ended], suffix: str) -> dict[str, float]:
    return {
        f"along_m_{suffix}": float(np.mean([one.along_m for one in ended])),
        f"plain_along_m_{suffix}": float(np.mean([one.plain_along_m for one in ended])),
        f"along_m_max_{suffix}": max(one.along_m for one in ended),
        f"plain_along_m_max_{suffix}": max(one.plain_along_m for one in ended),
        f"within_sigma_{suffix}": float(np.mean([one.along_m < one.sigma_m for one in ended])),
    }


def _position_figures(ended: list[Ended], suffix: str, prefix: str) -> dict[str, float]:
    distance_m = sum(one.distance_m for one in ended)
    return {
        f"{prefix}position_percent_{suffix}": 100 * sum(one.position_m for one in ended) / distance_m,
        f"{prefix}plain_position_percent_{suffix}": 100 * sum(one.plain_position_m for one in ended) / distance_m,
        f"{prefix}position_within_sigma_{suffix}": float(
            np.mean([one.position_m < one.position_sigma_m for one in ended])
        ),
    }
