"""traffic-flow: how many vehicles pass a road detector in the next five minutes (PeMS, one detector)."""

from pathlib import Path
from typing import Literal

import numpy as np

from roadloop_models.bundle import Bundle, Manifest, Variant
from roadloop_models.errors import DataError
from roadloop_models.postprocess import FlowForecast
from roadloop_models.preprocess import FloatArray, FlowScale, FlowWindow, preprocess_of
from roadloop_models.runners import Runner
from roadloop_models.tasks.base import Disturbance, Evaluation, Part, Progress, no_progress
from roadloop_models.tasks.disturb import COUNTS
from roadloop_models.tasks.flow_data import (
    FOLDER,
    TEST_FILE,
    TRAIN_FILE,
    WINDOW,
    load_test_flow,
    load_training_flow,
    write_flow,
)
from roadloop_models.tasks.forecasting import forecast_windows, step_keys, time_labels
from roadloop_models.tasks.made_flow import made_flow
from roadloop_models.tasks.row_slices import join_slices

MADE_DAYS, MADE_TEST_DAYS = 28, 4
CLUSTER_STEPS = 24
"""Forecasts of the same two hours share rows, and what was unusual then."""
_PROGRESS_ROWS = 256


class TrafficFlow:
    """Volume forecasting by an LSTM.

    The protocol is that of github.com/xiaochus/TrafficFlowPrediction: 12 counts in, the next one out, all windows of
    the test file.
    """

    name = "traffic-flow"
    metric = "rmse_veh"
    higher_is_better = False

    def preprocessor(self, manifest: Manifest) -> FlowScale:
        """`FlowWindow` -> input tensors. Raises BundleError where the manifest names another function."""
        return preprocess_of(manifest, FlowScale)

    def postprocessor(self, bundle: Bundle) -> FlowForecast:
        """Output tensors -> vehicles in the next five minutes, a float."""
        return FlowForecast(self.preprocessor(bundle.manifest).scale_veh)

    @property
    def disturbances(self) -> tuple[Disturbance, ...]:
        """Steps without counts, and noise."""
        return COUNTS

    def evaluate(
        self, bundle: Bundle, variant: Variant, runner: Runner, data_dir: Path, progress: Progress = no_progress
    ) -> Evaluation:
        """`mae_veh`, `rmse_veh`, `mape_percent` (of counts above 0) and `r2`. Raises DataError naming the file."""
        return self._evaluate(bundle, runner, data_dir, progress, None)

    def evaluate_disturbed(
        self, bundle: Bundle, variant: Variant, runner: Runner, data_dir: Path, disturbance: Disturbance
    ) -> Evaluation:
        """The same from windows made worse; what is forecast stays what it was."""
        return self._evaluate(bundle, runner, data_dir, no_progress, disturbance)

    def _evaluate(
        self, bundle: Bundle, runner: Runner, data_dir: Path, progress: Progress, disturbance: Disturbance | None
    ) -> Evaluation:
        path = data_dir / FOLDER / TEST_FILE
        rows = load_test_flow(data_dir)
        # As published: days that are missing between two rows (weekends) are passed over.
        starts = np.arange(max(len(rows) - WINDOW, 0))
        if not len(starts):
            raise DataError(f"{path}: {len(rows)} rows, expected {WINDOW + 1} or more")
        truth, steps = rows.flow_veh[starts + WINDOW], rows.steps[starts + WINDOW]
        slices = join_slices({"time": time_labels(steps)}, path, len(rows), starts + WINDOW)
        preprocess, postprocess = self.preprocessor(bundle.manifest), self.postprocessor(bundle)
        forecasts = forecast_windows(
            starts,
            lambda start: FlowWindow(rows.flow_veh[start : start + WINDOW], int(rows.steps[start + WINDOW])),
            lambda window: postprocess(runner.run(preprocess(window))),
            disturbance,
            progress,
            every=_PROGRESS_ROWS,
        )
        return Evaluation(
            forecast_errors(truth, forecasts),
            len(starts),
            losses=((forecasts - truth) ** 2).astype(np.float32),
            root=True,
            clusters=steps // CLUSTER_STEPS,
            slices=slices,
        )

    def row_keys(self, data_dir: Path, part: Part | Literal["test"]) -> frozenset[bytes]:
        """The absolute steps."""
        rows = load_test_flow(data_dir) if part == "test" else load_training_flow(data_dir, part)
        return step_keys(rows.steps)

    def write_part(self, data_dir: Path, part: Part, directory: Path) -> int:
        """Write one part of the training rows as a snapshot; returns their number."""
        rows = load_training_flow(data_dir, part)
        write_flow(directory / FOLDER / TRAIN_FILE, rows)
        return len(rows)

    def write_made_data(self, directory: Path, seed: int) -> None:
        """Four weeks of made counts to learn from and the four after them to test with."""
        rows = made_flow(MADE_DAYS + MADE_TEST_DAYS, seed)
        cut = len(rows) * MADE_DAYS // (MADE_DAYS + MADE_TEST_DAYS)
        write_flow(directory / FOLDER / TRAIN_FILE, rows.span(0, cut))
        write_flow(directory / FOLDER / TEST_FILE, rows.span(cut, len(rows)))


def forecast_errors(truth_veh: FloatArray, forecasts_veh: FloatArray) -> dict[str, float]:
    """Figures of forecasts [n] against what was counted [n]."""
    truth = truth_veh.astype(np.float64)
    error = forecasts_veh - truth
    counted = truth > 0
    return {
        "mae_veh": float(np.mean(np.abs(error))),
        "rmse_veh": float(np.sqrt(np.mean(error**2))),
        "mape_percent": float(100 * np.mean(np.abs(error[counted]) / truth[counted])) if counted.any() else 0.0,
        "r2": float(1 - np.sum(error**2) / max(float(np.sum((truth - truth.mean()) ** 2)), 1e-9)),
    }
