"""drive-state: the speed in 10 s, the traffic state and an anomaly score, from a minute of OBD signals."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from roadloop_models.bundle import Bundle, Manifest, Variant
from roadloop_models.drive_state.decision import STATES, ReadAnswers, decide
from roadloop_models.drive_state.decision import DriveState as Decision
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
from roadloop_models.errors import DataError
from roadloop_models.preprocess import preprocess_of
from roadloop_models.runners import Runner
from roadloop_models.tasks.base import Disturbance, Evaluation, Part, Progress, no_progress
from roadloop_models.tasks.disturb import OBD
from roadloop_models.tasks.made_obd import made_obd_drives
from roadloop_models.tasks.obd_data import (
    FILES,
    UNKNOWN_STATE,
    ObdDrive,
    Record,
    load_test_drives,
    load_training_drives,
    write_drives,
)

EVERY_ROWS = 10
FAULTS_EVERY_ROWS = 40
FAULT_SEED = 20261123
_KMH = 3.6
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
        return preprocess_of(manifest, ObdWindow)

    def postprocessor(self, bundle: Bundle) -> ReadAnswers:
        """Output tensors -> `Answers`, which `decide` compares with the window."""
        return ReadAnswers()

    @property
    def disturbances(self) -> tuple[Disturbance, ...]:
        """A signal that the car stops telling, and answers that do not come."""
        return OBD

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
        found = _decide(judge, kit)
        figures = _figures(found, _training_speeds(data_dir))
        if not figures:
            raise DataError(f"{data_dir / FILES['kit']}: the test drives hold no window of 70 s")
        if car:
            figures |= {f"car_{name}": value for name, value in _figures(_decide(judge, car), None).items()}
        if faults:
            decisions = [judge(window.values) for window in faults]
            scores = np.array([decision.anomaly for decision in decisions], dtype=np.float32)
            figures |= fault_figures(faults, scores, [decision.anomaly_signal for decision in decisions])
        return Evaluation(figures, len(found.rows.truth), **_judged(found))

    def evaluate_disturbed(
        self, bundle: Bundle, variant: Variant, runner: Runner, data_dir: Path, disturbance: Disturbance
    ) -> Evaluation:
        """Speed and state in the KIT drives from windows made worse; the truth stays what it was."""
        judge = _Judge(self.preprocessor(bundle.manifest), self.postprocessor(bundle), runner)
        found = _decide(judge, load_test_drives(data_dir, "kit"), disturbance)
        return Evaluation(_figures(found, None), len(found.rows.truth), **_judged(found))

    def row_keys(self, data_dir: Path, part: Part | Literal["test"]) -> frozenset[bytes]:
        """Of each drive its record and all that was measured in it."""
        if part == "test":
            records: list[Record] = [record for record, file in FILES.items() if (data_dir / file).exists()]
            drives = [drive for record in records for drive in load_test_drives(data_dir, record)]
        else:
            drives = load_training_drives(data_dir, part)
        return frozenset(hashlib.sha256(drive.values.tobytes()).digest() for drive in drives)

    def write_part(self, data_dir: Path, part: Part, directory: Path) -> int:
        """Write one part of the training drives as a snapshot; returns the number of rows."""
        drives = load_training_drives(data_dir, part)
        write_drives(directory, drives)
        return sum(len(drive.values) for drive in drives)

    def write_made_data(self, directory: Path, seed: int) -> None:
        """Made drives of two made cars, in the layouts of both records."""
        write_drives(directory, made_obd_drives(seed))


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


@dataclass(frozen=True)
class _Decided:
    """All windows of some drives: what was decided, in which drive, and the rows whose speeds are known."""

    decisions: list[Decision]
    states: npt.NDArray[np.int64]
    drive: npt.NDArray[np.int64]
    rows: SpeedRows
    known: npt.NDArray[np.bool_]

    @property
    def forecast_mps(self) -> FloatArray:
        """Of the rows whose speeds are known."""
        return np.array([decision.speed_10s_mps for decision in self.decisions], dtype=np.float32)[self.known]

    @property
    def probabilities(self) -> FloatArray:
        """float32 [windows, states]."""
        return np.array([decision.probabilities for decision in self.decisions], dtype=np.float32)


def _decide(judge: _Judge, drives: list[ObdDrive], disturbance: Disturbance | None = None) -> _Decided:
    decisions: list[Decision] = []
    states, of_drive = [], []
    for index, drive in enumerate(drives):
        for end in window_ends(len(drive.values), EVERY_ROWS):
            window = drive.values[end - ROWS : end]
            if disturbance is not None:
                window = disturbance(window, len(decisions))
            decisions.append(judge(window))
            states.append(drive.state)
            of_drive.append(index)
    rows, known = speed_rows([drive.values for drive in drives], EVERY_ROWS)
    return _Decided(decisions, np.array(states, dtype=np.int64), np.array(of_drive, dtype=np.int64), rows, known)


def _figures(found: _Decided, training: SpeedRows | None) -> Figures:
    """Figures of speed, and of state where the drives' names tell it; none without a window."""
    if not len(found.rows.truth):
        return {}
    figures = speed_figures(found.rows, found.forecast_mps, training)
    figures["share_above_2"] = float(np.mean([decision.anomaly > ODD_ABOVE for decision in found.decisions]))
    named = found.states != UNKNOWN_STATE
    if named.any():
        figures |= state_figures(found.states[named], found.probabilities[named], found.drive[named])
    return figures


def _judged(found: _Decided) -> dict[str, Any]:
    """What two models are compared by: the speed's error in km/h, drive by drive, and how sure of the state it is."""
    named = found.states != UNKNOWN_STATE
    probabilities, states = found.probabilities[named], found.states[named]
    kmh = _KMH * found.rows.windows[:, -1]
    names = np.array([*STATES, "unknown"])  # UNKNOWN_STATE is -1: the last
    return {
        "losses": _KMH * np.abs(found.forecast_mps - found.rows.truth),
        "clusters": found.drive[found.known],
        "slices": {
            "speed": np.select(
                [kmh < 30, kmh < 60, kmh < 100],
                ["below 30 km/h", "30 to 60 km/h", "60 to 100 km/h"],
                "100 km/h and more",
            ),
            "state": names[found.states[found.known]],
        },
        "confidences": probabilities.max(axis=1),
        "hits": probabilities.argmax(axis=1) == states,
    }


def _training_speeds(data_dir: Path) -> SpeedRows | None:
    """What linear regression is fitted on: the training drives of the KIT record."""
    drives = [drive.values for drive in load_training_drives(data_dir, "all") if drive.record == "kit"]
    rows, _ = speed_rows(drives, EVERY_ROWS)
    return rows if len(rows.truth) > ROWS else None
