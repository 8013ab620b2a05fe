"""traffic-speed: the next hour's speeds at 207 road sensors (Los-loop, protocol of the T-GCN paper)."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from roadloop_models.bundle import Bundle, Manifest, Variant
from roadloop_models.errors import DataError
from roadloop_models.postprocess import SpeedForecast
from roadloop_models.preprocess import FloatArray, SpeedScale, SpeedWindow, preprocess_of
from roadloop_models.runners import Runner
from roadloop_models.tasks.base import Disturbance, Evaluation, Part, Progress, no_progress
from roadloop_models.tasks.disturb import SPEEDS
from roadloop_models.tasks.forecasting import forecast_windows, step_keys, time_labels
from roadloop_models.tasks.made_speeds import made_speeds
from roadloop_models.tasks.row_slices import Slices, join_slices
from roadloop_models.tasks.speed_data import (
    FOLDER,
    HORIZON,
    SPEED_FILE,
    WINDOW,
    SpeedRows,
    first_test_row,
    load_adjacency,
    load_speeds,
    load_test_speeds,
    load_training_speeds,
    write_speeds,
)

STEP_MINUTES = 5
REPORTED_STEPS = (3, 6, 9, 12)
MADE_DAYS = 5
CLUSTER_STEPS = 24
"""Windows that begin within two hours share rows and jams: together they are one observation of all sensors."""
_PROGRESS_ROWS = 16


class TrafficSpeed:
    """Road-condition forecasting by an LSTM.

    The protocol is that of T-GCN (Zhao et al., IEEE T-ITS 2019) and its code: the last 20 % of the rows, windows of
    12 steps, and for each horizon the errors pooled over all steps up to it, all windows and all sensors.
    """

    name = "traffic-speed"
    metric = "rmse_mph_60min"
    higher_is_better = False

    def preprocessor(self, manifest: Manifest) -> SpeedScale:
        """`SpeedWindow` -> input tensors. Raises BundleError where the manifest names another function."""
        return preprocess_of(manifest, SpeedScale)

    def postprocessor(self, bundle: Bundle) -> SpeedForecast:
        """Output tensors -> mph float32 [sensors, horizon]."""
        return SpeedForecast(self.preprocessor(bundle.manifest).scale_mph)

    @property
    def disturbances(self) -> tuple[Disturbance, ...]:
        """Sensors that fail, and noise."""
        return SPEEDS

    def evaluate(
        self, bundle: Bundle, variant: Variant, runner: Runner, data_dir: Path, progress: Progress = no_progress
    ) -> Evaluation:
        """`rmse_mph_15min` … `_60min`, `mae_mph_…` and `accuracy_…` (1 - ||Y-P|| / ||Y||).

        Raises DataError naming file and field.
        """
        return self._evaluate(bundle, variant, runner, data_dir, progress=progress)

    def evaluate_disturbed(
        self, bundle: Bundle, variant: Variant, runner: Runner, data_dir: Path, disturbance: Disturbance
    ) -> Evaluation:
        """The same from windows made worse; what is forecast stays what it was."""
        return self._evaluate(bundle, variant, runner, data_dir, disturbance=disturbance)

    def _evaluate(
        self,
        bundle: Bundle,
        variant: Variant,
        runner: Runner,
        data_dir: Path,
        *,
        progress: Progress = no_progress,
        disturbance: Disturbance | None = None,
    ) -> Evaluation:
        record = load_speeds(data_dir)
        first = first_test_row(record)
        rows = record.span(first, len(record))
        shape = variant.inputs[0].shape
        if rows.speeds_mph.shape[1] != shape[-1]:
            raise DataError(f"{FOLDER}/{SPEED_FILE}: {rows.speeds_mph.shape[1]} sensors, the model is for {shape[-1]}")
        starts = _protocol_starts(rows, REPORTED_STEPS[0])
        if not len(_protocol_starts(rows, HORIZON)):
            raise DataError(f"{FOLDER}/{SPEED_FILE}: {len(rows)} test rows hold no window of 25 steps")
        judged = first + np.repeat(_protocol_starts(rows, HORIZON) + WINDOW, shape[-1])
        slices = join_slices(_own_slices(rows), data_dir / FOLDER / SPEED_FILE, len(record), judged)
        preprocess, postprocess = self.preprocessor(bundle.manifest), self.postprocessor(bundle)
        forecasts = forecast_windows(
            starts,
            lambda start: SpeedWindow(rows.speeds_mph[start : start + WINDOW], int(rows.steps[start + WINDOW])),
            lambda window: postprocess(runner.run(preprocess(window))),
            disturbance,
            progress,
            every=_PROGRESS_ROWS,
        )
        return Evaluation(pooled_errors(rows, forecasts), len(starts), slices=slices, **_judged(rows, forecasts))

    def row_keys(self, data_dir: Path, part: Part | Literal["test"]) -> frozenset[bytes]:
        """The absolute steps: what all sensors tell at one moment is one row."""
        rows = load_test_speeds(data_dir) if part == "test" else load_training_speeds(data_dir, part)
        return step_keys(rows.steps)

    def write_part(self, data_dir: Path, part: Part, directory: Path) -> int:
        """Write one part of the training rows as a snapshot (with their absolute steps); returns their number."""
        rows = load_training_speeds(data_dir, part)
        write_speeds(directory, rows, load_adjacency(data_dir, rows.speeds_mph.shape[1]))
        return len(rows)

    def write_made_data(self, directory: Path, seed: int) -> None:
        """Five days of made speeds and their adjacency."""
        rows, adjacency = made_speeds(MADE_DAYS, seed)
        write_speeds(directory, rows, adjacency, with_steps=False)


def pooled_errors(rows: SpeedRows, forecasts: FloatArray) -> dict[str, float]:
    """Figures of forecasts [windows, sensors, 12] that start at the first 15-minute windows of `rows`, by horizon."""
    figures = {}
    for horizon in REPORTED_STEPS:
        starts = _protocol_starts(rows, horizon)
        ahead = starts[:, np.newaxis] + WINDOW + np.arange(horizon)
        truth = rows.speeds_mph[ahead].transpose(0, 2, 1).astype(np.float64)
        error = forecasts[: len(starts), :, :horizon] - truth
        minutes = horizon * STEP_MINUTES
        figures[f"rmse_mph_{minutes}min"] = float(np.sqrt(np.mean(error**2)))
        figures[f"mae_mph_{minutes}min"] = float(np.mean(np.abs(error)))
        figures[f"accuracy_{minutes}min"] = float(1 - np.linalg.norm(error) / np.linalg.norm(truth))
    return figures


def _protocol_starts(rows: SpeedRows, horizon: int) -> npt.NDArray[np.int64]:
    # The published code leaves out the last window: range(rows - window - horizon).
    return np.arange(max(len(rows) - WINDOW - horizon, 0))


def _judged(rows: SpeedRows, forecasts: FloatArray) -> dict[str, Any]:
    """What two models are compared by: the mean squared error of each window's hour at each sensor."""
    starts = _protocol_starts(rows, HORIZON)
    ahead = starts[:, np.newaxis] + WINDOW + np.arange(HORIZON)
    error = forecasts[: len(starts)] - rows.speeds_mph[ahead].transpose(0, 2, 1)
    return {
        "losses": np.mean(error.astype(np.float32) ** 2, axis=2).reshape(-1),
        "root": True,
        "clusters": np.repeat(starts // CLUSTER_STEPS, error.shape[1]),
    }


def _own_slices(rows: SpeedRows) -> Slices:
    """Of each window at each sensor: its last speed, and when its hour begins."""
    starts = _protocol_starts(rows, HORIZON)
    last_mph = rows.speeds_mph[starts + WINDOW - 1].reshape(-1)
    return {
        "speed": np.select(
            [last_mph < 20, last_mph < 40, last_mph < 60],
            ["below 20 mph", "20 to 40 mph", "40 to 60 mph"],
            "60 mph and more",
        ),
        "time": np.repeat(time_labels(rows.steps[starts + WINDOW]), rows.speeds_mph.shape[1]),
    }
