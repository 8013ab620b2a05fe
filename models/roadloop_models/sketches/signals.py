"""The signals that each task's drift is watched by: the same functions on the vehicle and where a reference is made.

A signal is one number for one decision; NaN where it is not known. Signals that are errors need no label: the outcome
arrives by itself, later (outcomes.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from roadloop_models.postprocess import SignClass
from roadloop_models.preprocess import FloatArray, ImageArray


@dataclass(frozen=True)
class Signal:
    """One number of each decision."""

    name: str
    about: str
    """For people: what it measures, with its unit."""
    kind: Literal["number", "class"] = "number"
    block: str = ""
    """Which rows of a reference are not independent of each other: those of one `track`, `hour` or `day`."""
    shared: bool = False
    """Vehicles see the same thing at the same time: a second vehicle adds no evidence of its own."""


TRAFFIC_SIGN = (
    Signal("brightness", "mean of the image, 0 to 255", block="track"),
    Signal("contrast", "standard deviation of the image, 0 to 255", block="track"),
    Signal("sharpness", "root mean square difference of neighbouring pixels by the contrast", block="track"),
    Signal("class", "the class that was decided", kind="class", block="track"),
    Signal("confidence", "probability of that class", block="track"),
    Signal("margin", "by which it is more probable than the second", block="track"),
    Signal("logit-norm", "length of the vector of logits, the network's last embedding", block="track"),
)
TRAFFIC_SPEED = (
    Signal("speed-mean", "observed now, mean over the sensors, mph", block="day", shared=True),
    Signal("speed-spread", "standard deviation over the sensors, mph", block="day", shared=True),
    Signal("speed-step", "mean change of a sensor since the last step, mph", block="day", shared=True),
    Signal("forecast-60min", "mean forecast, mph", block="day", shared=True),
    Signal("error-15min", "RMSE of the forecast of 15 minutes ago, mph", block="hour", shared=True),
    Signal("error-60min", "RMSE of the forecast of an hour ago, mph", block="hour", shared=True),
    Signal("bias-60min", "how much too fast the forecast of an hour ago was, mph", block="hour", shared=True),
    Signal("typical-error-15min", "median absolute error of the same, mph", block="hour", shared=True),
)
TRAFFIC_FLOW = (
    Signal("flow", "counted in the last step", block="day"),
    Signal("flow-step", "change since the step before", block="hour"),
    Signal("forecast", "for the next step", block="day"),
    Signal("error", "absolute error of the forecast about the last step", block="hour"),
    Signal("bias", "by which the forecast about the last step was too high", block="hour"),
)
DRIVE_STATE = (
    Signal("speed-kmh", "now; NaN where it is not known", block="drive"),
    Signal("state", "0 free, 1 normal, 2 jam", kind="class", block="drive"),
    Signal("confidence", "of the state", block="drive"),
    Signal("anomaly", "of the oddest signal", block="drive"),
    Signal("known-signals", "how many signals are known", kind="class", block="drive"),
)

SIGNALS: Mapping[str, tuple[Signal, ...]] = {
    "traffic-sign": TRAFFIC_SIGN,
    "traffic-speed": TRAFFIC_SPEED,
    "traffic-flow": TRAFFIC_FLOW,
    "drive-state": DRIVE_STATE,
}
"""Task -> what is watched; drift of other tasks is not."""


def signal_of(task: str, name: str) -> Signal | None:
    """A signal by its name; None where there is none."""
    return next((signal for signal in SIGNALS.get(task, ()) if signal.name == name), None)


def sign_signals(image: ImageArray, logits: FloatArray, decision: SignClass) -> list[float]:
    """Of an image uint8 [h, w, 3] and its logits float32 [1, classes]: in the order of TRAFFIC_SIGN."""
    grey = image[:, :, 1].astype(np.float32)  # green is most of what a grey picture shows, at a third of the cost
    flat = grey.reshape(-1)
    mean = float(np.add.reduce(flat)) / flat.size  # dot products and this: a third of the time of mean() and std()
    contrast = math.sqrt(max(float(flat @ flat) / flat.size - mean * mean, 0.0))
    steps = flat[1:] - flat[:-1]
    roughness = math.sqrt(float(steps @ steps) / max(steps.size, 1))
    flat_logits = logits.reshape(-1)
    return [
        mean,
        contrast,
        roughness / max(contrast, 1.0),
        float(decision.class_id),
        decision.confidence,
        decision.margin,
        math.sqrt(float(flat_logits @ flat_logits)),
    ]


def speed_signals(window_mph: FloatArray, forecast_mph: FloatArray, errors: "ForecastErrors") -> list[float]:
    """Of a window [steps, sensors], its forecast [sensors, horizon] and what came of earlier ones (TRAFFIC_SPEED)."""
    now = window_mph[-1]
    step = np.abs(now - window_mph[-2])
    return [
        float(now.mean()),
        float(now.std()),
        float(step.mean()),
        float(forecast_mph[:, -1].mean()),
        errors.rmse_15min,
        errors.rmse_60min,
        errors.bias_60min,
        errors.median_15min,
    ]


@dataclass(frozen=True)
class ForecastErrors:
    """How wrong the forecasts about one step were, mph; NaN where there was none."""

    rmse_15min: float = math.nan
    rmse_60min: float = math.nan
    bias_60min: float = math.nan
    median_15min: float = math.nan


def flow_signals(flow_veh: npt.ArrayLike, forecast_veh: float, error_veh: float) -> list[float]:
    """Of the counts of a window, the forecast, and the error of the one before (NaN: none) (TRAFFIC_FLOW)."""
    counts = np.asarray(flow_veh, dtype=np.float64).reshape(-1)
    last = float(counts[-1])
    return [last, last - float(counts[-2]), forecast_veh, abs(error_veh), error_veh]


def drive_state_signals(
    speed_kmh: float, probabilities: Sequence[float], anomaly: float, known_signals: int
) -> list[float]:
    """In the order of DRIVE_STATE; the state is the most probable one."""
    state = max(range(len(probabilities)), key=probabilities.__getitem__)
    return [speed_kmh, float(state), probabilities[state], anomaly, float(known_signals)]
