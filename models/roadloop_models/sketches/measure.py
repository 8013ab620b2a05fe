"""The signals of recorded rows, as a vehicle would have had them: what references are made of."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from roadloop_models.bundle import Bundle, Variant
from roadloop_models.drive_state.decision import decide
from roadloop_models.drive_state.signals import SPEED
from roadloop_models.drive_state.window import RATE_HZ, ROWS
from roadloop_models.preprocess import FlowWindow, ImageArray, SpeedWindow
from roadloop_models.runners import open_runner
from roadloop_models.sketches.outcomes import FlowOutcomes, SpeedOutcomes
from roadloop_models.sketches.signals import drive_state_signals, flow_signals, sign_signals, speed_signals
from roadloop_models.tasks import get_task
from roadloop_models.tasks.flow_data import FlowRows
from roadloop_models.tasks.obd_data import ObdDrive
from roadloop_models.tasks.speed_data import WINDOW, SpeedRows

IntArray = npt.NDArray[np.int64]
HOUR_STEPS, DAY_STEPS = 12, 288
_KMH = 3.6


@dataclass(frozen=True)
class Measured:
    """Signals float64 [n, signals], and for each kind of block the block that each row belongs to, int64 [n]."""

    rows: npt.NDArray[np.float64]
    blocks: dict[str, IntArray]


def joined(parts: Sequence[Measured]) -> Measured | None:
    """Rows of several records; their blocks keep apart. None where there are none."""
    if not parts:
        return None
    blocks = {}
    for kind in parts[0].blocks:
        offset, ids = 0, []
        for part in parts:
            own = part.blocks[kind] - part.blocks[kind].min()
            ids.append(own + offset)
            offset += int(own.max()) + 1
        blocks[kind] = np.concatenate(ids)
    return Measured(np.concatenate([part.rows for part in parts]), blocks)


def measure_signs(bundle: Bundle, variant: Variant, images: ImageArray, tracks: IntArray) -> Measured:
    """Of images uint8 [n, h, w, 3], each of a track."""
    with closing(_Runs(bundle, variant)) as runs:
        rows = []
        for image in images:
            outputs = runs.outputs(image)
            rows.append(sign_signals(image, outputs[0], runs.postprocess(outputs)))
    return Measured(np.array(rows), {"track": tracks})


def measure_speeds(bundle: Bundle, variant: Variant, record: SpeedRows) -> Measured:
    """Of every step that ends an unbroken window, in order."""
    rows, steps, outcomes = [], [], SpeedOutcomes()
    with closing(_Runs(bundle, variant)) as runs:
        for start in record.window_starts(WINDOW).tolist():
            window_mph, step = record.speeds_mph[start : start + WINDOW], int(record.steps[start + WINDOW - 1])
            forecast_mph = runs.answer(SpeedWindow(window_mph, step + 1))
            errors = outcomes.observe(step, window_mph[-1])
            outcomes.forecast(step, forecast_mph)
            rows.append(speed_signals(window_mph, forecast_mph, errors))
            steps.append(step)
    return Measured(np.array(rows), _times(np.array(steps, dtype=np.int64)))


def measure_flow(bundle: Bundle, variant: Variant, record: FlowRows) -> Measured:
    """Of every step that ends an unbroken window, in order."""
    rows, steps, outcomes = [], [], FlowOutcomes()
    with closing(_Runs(bundle, variant)) as runs:
        for end in range(WINDOW, len(record) + 1):
            step = int(record.steps[end - 1])
            if step - int(record.steps[end - WINDOW]) != WINDOW - 1:
                continue
            flow_veh = record.flow_veh[end - WINDOW : end]
            forecast_veh = runs.answer(FlowWindow(flow_veh, step + 1))
            rows.append(flow_signals(flow_veh, forecast_veh, outcomes.observe(step, float(flow_veh[-1]))))
            outcomes.forecast(step, forecast_veh)
            steps.append(step)
    return Measured(np.array(rows), _times(np.array(steps, dtype=np.int64)))


def measure_drives(bundle: Bundle, variant: Variant, drives: Sequence[ObdDrive], period_s: float = 1.0) -> Measured:
    """Of a decision every `period_s`, in each drive from its first whole minute on."""
    rows, ids, every = [], [], max(round(period_s * RATE_HZ), 1)
    with closing(_Runs(bundle, variant)) as runs:
        for number, drive in enumerate(drives):
            for end in range(ROWS, len(drive.values) + 1, every):
                window = drive.values[end - ROWS : end]
                state = decide(window, runs.answer(window))
                now = window[-1]
                known = int(np.isfinite(now).sum())
                rows.append(drive_state_signals(_KMH * float(now[SPEED]), state.probabilities, state.anomaly, known))
                ids.append(number)
    return Measured(np.array(rows), {"drive": np.array(ids, dtype=np.int64)})


def _times(steps: IntArray) -> dict[str, IntArray]:
    return {"hour": steps // HOUR_STEPS, "day": steps // DAY_STEPS}


class _Runs:
    """One variant, run as on the vehicle."""

    def __init__(self, bundle: Bundle, variant: Variant) -> None:
        task = get_task(bundle.manifest.task)
        self._preprocess = task.preprocessor(bundle.manifest)
        self.postprocess: Callable[..., Any] = task.postprocessor(bundle)
        self._runner = open_runner(bundle, variant)

    def outputs(self, item: object) -> tuple[npt.NDArray[np.float32], ...]:
        """The model's output tensors."""
        return self._runner.run(self._preprocess(item))

    def answer(self, item: object) -> Any:
        """What they mean."""
        return self.postprocess(self.outputs(item))

    def close(self) -> None:
        """Release the runner."""
        self._runner.close()
