"""drive-state: the speed in 10 s, the traffic state and an anomaly score, from a minute of OBD signals."""

from pathlib import Path

import numpy as np

from roadloop_models.bundle import Bundle, Manifest, Variant
from roadloop_models.drive_state.decision import DriveState as Decision
from roadloop_models.drive_state.decision import ReadAnswers, decide
from roadloop_models.drive_state.judging import (
    Figures,
    SpeedRows,
    fault_figures,
    fault_windows,
    speed_figures,
    speed_rows,
    state_figures,
    window_ends,
)
from roadloop_models.drive_state.signals import ODD_ABOVE
from roadloop_models.drive_state.window import ROWS, FloatArray, ObdWindow
from roadloop_models.errors import BundleError, DataError
from roadloop_models.preprocess import build_preprocess
from roadloop_models.runners import Runner
from roadloop_models.tasks.base import Evaluation, Part, Progress, no_progress
from roadloop_models.tasks.made_obd import made_obd_drives
from roadloop_models.tasks.obd_data import (
    FILES,
    UNKNOWN_STATE,
    ObdDrive,
    load_test_drives,
    load_training_drives,
    write_drives,
)

EVERY_ROWS = 10
FAULTS_EVERY_ROWS = 40
FAULT_SEED = 20261123
_PROGRESS_WINDOWS = 200


class DriveState:
    """Traffic state and anomalies from OBD by an LSTM.

    Judged by drive: the 14 later drives of kit_obd, and the later logs of car_obd with injected faults.
    """

    name = "drive-state"
    metric = "mae_kmh_10s"
    higher_is_better = False

    def preprocessor(self, manifest: Manifest) -> ObdWindow:
        """Window of OBD values -> input tensor. Raises BundleError where the manifest names another function."""
        preprocess = build_preprocess(manifest.preprocess)
        if not isinstance(preprocess, ObdWindow):
            raise BundleError(f"manifest of {manifest.task} {manifest.version}: preprocess is not for OBD signals")
        return preprocess

    def postprocessor(self, bundle: Bundle) -> ReadAnswers:
        """Output tensors -> `Answers`, which `decide` compares with the window."""
        return ReadAnswers()

    def evaluate(
        self, bundle: Bundle, variant: Variant, runner: Runner, data_dir: Path, progress: Progress = no_progress
    ) -> Evaluation:
        """Speed, state and, where the folder has car_obd, anomaly figures; see `judging.py` for each.

        Raises DataError naming file and field.
        """
        judge = _Judge(self.preprocessor(bundle.manifest), self.postprocessor(bundle), runner)
        kit = load_test_drives(data_dir, "kit")
        car = load_test_drives(data_dir, "car") if (data_dir / FILES["car"]).exists() else []
        faults = list(fault_windows([drive.values for drive in car], FAULTS_EVERY_ROWS, FAULT_SEED))
        judge.expect(
            sum(len(window_ends(len(drive.values), EVERY_ROWS)) for drive in kit + car) + len(faults), progress
        )
        figures, rows = self._forecasts(judge, kit, _training_speeds(data_dir))
        if not rows:
            raise DataError(f"{data_dir / FILES['kit']}: the test drives hold no window of 70 s")
        if car:
            found, _ = self._forecasts(judge, car, None)
            figures |= {f"car_{name}": value for name, value in found.items()}
        if faults:
            decisions = [judge(window.values) for window in faults]
            scores = np.array([decision.anomaly for decision in decisions], dtype=np.float32)
            figures |= fault_figures(faults, scores, [decision.anomaly_signal for decision in decisions])
        return Evaluation(figures, rows)

    def write_part(self, data_dir: Path, part: Part, directory: Path) -> int:
        """Write one part of the training drives as a snapshot; returns the number of rows."""
        drives = load_training_drives(data_dir, part)
        write_drives(directory, drives)
        return sum(len(drive.values) for drive in drives)

    def write_made_data(self, directory: Path, seed: int) -> None:
        """Made drives of two made cars, in the layouts of both records."""
        write_drives(directory, made_obd_drives(seed))

    def _forecasts(self, judge: "_Judge", drives: list[ObdDrive], training: SpeedRows | None) -> tuple[Figures, int]:
        """(figures of speed, and of state where the drives' names tell it; how many windows)."""
        decisions = [
            (judge(drive.values[end - ROWS : end]), drive.state, index)
            for index, drive in enumerate(drives)
            for end in window_ends(len(drive.values), EVERY_ROWS)
        ]
        rows, known = speed_rows([drive.values for drive in drives], EVERY_ROWS)
        if not len(rows.truth):
            return {}, 0
        forecast = np.array([decision.speed_10s_mps for decision, _, _ in decisions], dtype=np.float32)[known]
        figures = speed_figures(rows, forecast, training)
        figures["share_above_2"] = float(np.mean([decision.anomaly > ODD_ABOVE for decision, _, _ in decisions]))
        named = [
            (decision.probabilities, state, drive) for decision, state, drive in decisions if state != UNKNOWN_STATE
        ]
        if named:
            probabilities, states, of_drive = zip(*named, strict=True)
            figures |= state_figures(np.array(states), np.array(probabilities, dtype=np.float32), np.array(of_drive))
        return figures, len(rows.truth)


class _Judge:
    """Decides about windows, and counts them."""

    def __init__(self, preprocess: ObdWindow, postprocess: ReadAnswers, runner: Runner) -> None:
        self._preprocess, self._postprocess, self._runner = preprocess, postprocess, runner
        self._done = self._total = 0
        self._progress: Progress = no_progress

    def expect(self, total: int, progress: Progress) -> None:
        """So many windows will come."""
        self._total, self._progress = total, progress

    def __call__(self, values: FloatArray) -> Decision:
        self._done += 1
        if self._done % _PROGRESS_WINDOWS == 0 or self._done == self._total:
            self._progress(self._done, self._total)
        return decide(values, self._postprocess(self._runner.run(self._preprocess(values))))


def _training_speeds(data_dir: Path) -> SpeedRows | None:
    """What linear regression is fitted on: the training drives of the KIT record."""
    drives = [drive.values for drive in load_training_drives(data_dir, "all") if drive.record == "kit"]
    rows, _ = speed_rows(drives, EVERY_ROWS)
    return rows if len(rows.truth) > ROWS else None
