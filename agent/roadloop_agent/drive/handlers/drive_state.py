"""drive-state on board: a minute of OBD signals in, the speed in 10 s, the traffic state and what is odd out."""

import math
import time
from typing import Any

import numpy as np

from roadloop_agent.config import SlotTable
from roadloop_agent.drive.frames import Frame
from roadloop_agent.drive.handlers import Around, Outcome
from roadloop_agent.drive.pipeline import Model
from roadloop_agent.onboard import task_settings
from roadloop_agent.task_settings import DriveStateSettings
from roadloop_models.contract.streams import DRIVE_STATE
from roadloop_models.drive_state.decision import STATES, DriveState, decide
from roadloop_models.drive_state.rolling import RollingWindow
from roadloop_models.drive_state.signals import NAMES, SIGNALS, SPEED
from roadloop_models.drive_state.window import RATE_HZ, FloatArray
from roadloop_models.signals import SignalFrame
from roadloop_models.sketches.signals import drive_state_signals

_KMH = 3.6


class Minute:
    """The last minute of signals, and when it is time to decide about it. Inference over a file uses it too."""

    def __init__(self, settings: DriveStateSettings) -> None:
        self._window = RollingWindow()
        self._every_rows = max(round(settings.period_s * RATE_HZ), 1)
        self._rows_since = 0

    def add(self, t_s: float, values: FloatArray) -> FloatArray | None:
        """Take the values [signals] of a moment; returns the window [120, signals] where a decision is due."""
        if not self._window.add(t_s, values):
            return None
        self._rows_since += 1
        if not self._window.full or self._rows_since < self._every_rows:
            return None
        self._rows_since = 0
        return self._window.values


class DriveStateHandler:
    """See the module. A signal that is stale or out of range is unknown in its row: the model is told so."""

    def __init__(self, table: SlotTable) -> None:
        self._settings: DriveStateSettings = task_settings("drive-state", table.settings, "settings")
        self._minute = Minute(self._settings)

    def handle(self, frame: Frame, model: Model | None, around: Around) -> Outcome:
        """Nothing is decided while the window fills. Raises FailedError where the answer is not finite."""
        started_ns = time.perf_counter_ns()
        values = frame_values(frame.data)
        window = self._minute.add(frame.data.t_s, values)
        if model is None or window is None:
            return Outcome()
        state = judge(model, window)
        latency_us = (time.perf_counter_ns() - started_ns) / 1000.0
        row = state_row(
            state,
            values,
            odd_above=self._settings.odd_above,
            item=frame.number,
            latency_us=latency_us,
            release=model.release,
            dropped=around.dropped,
        )
        return Outcome(
            rows=[(DRIVE_STATE, row)],
            decided=True,
            latency_us=latency_us,
            confidence=state.confidence,
            decision=lambda: {"t": frame.data.t_s} | state_line(state, values, self._settings.odd_above),
            signals=lambda: state_signals(state, values),
            seen=(window,),
        )


def frame_values(frame: SignalFrame) -> FloatArray:
    """The signals of a frame in the model's order: float32 [signals], NaN where they are not known to be good."""
    return np.array([frame.values.get(signal.path, math.nan) for signal in SIGNALS], dtype=np.float32)


def judge(model: Model, window: FloatArray) -> DriveState:
    """Run the model over a window [120, signals]. Raises FailedError where it answers with what is not finite."""
    return decide(window, model.postprocess(model.run(model.preprocess(window))))


def odd_signals(state: DriveState, odd_above: float) -> dict[str, float]:
    """Signal -> oddness of those above, the oddest first."""
    odd = [(oddness, name) for name, oddness in zip(NAMES, state.oddness, strict=True) if oddness > odd_above]
    return {name: round(oddness, 2) for oddness, name in sorted(odd, reverse=True)}


def state_row(
    state: DriveState,
    values: FloatArray,
    *,
    odd_above: float,
    item: int,
    latency_us: float,
    release: int,
    dropped: int,
) -> list[float]:
    """A sample of the stream drive-state."""
    return [
        float(item),
        _KMH * float(values[SPEED]),
        _KMH * state.speed_10s_mps,
        float(STATES.index(state.state)),
        state.confidence,
        state.probabilities[STATES.index("jam")],
        state.anomaly,
        math.nan if state.anomaly_signal is None else float(NAMES.index(state.anomaly_signal)),
        float(len(odd_signals(state, odd_above))),
        float(np.isfinite(values).sum()),
        latency_us,
        float(release),
        float(dropped),
    ]


def state_signals(state: DriveState, values: FloatArray) -> list[float]:
    """What drift is watched by."""
    known = int(np.isfinite(values).sum())
    return drive_state_signals(_KMH * float(values[SPEED]), state.probabilities, state.anomaly, known)


def state_line(state: DriveState, values: FloatArray, odd_above: float) -> dict[str, Any]:
    """A decision as a line of JSON tells it; what is unknown is null."""
    return {
        "speed_kmh": _number(_KMH * float(values[SPEED]), 1),
        "speed_10s_kmh": _number(_KMH * state.speed_10s_mps, 2),
        "state": state.state,
        "confidence": round(state.confidence, 4),
        "probabilities": {
            name: round(probability, 4) for name, probability in zip(STATES, state.probabilities, strict=True)
        },
        "anomaly": _number(state.anomaly, 3),
        "anomaly_signal": state.anomaly_signal,
        "odd": odd_signals(state, odd_above),
    }


def _number(value: float, digits: int) -> float | None:
    return round(value, digits) if math.isfinite(value) else None
