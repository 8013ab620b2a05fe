"""How drive-state is judged: baselines on the same rows, a confusion of states, and injected faults. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from roadloop_models.drive_state.decision import STATES
from roadloop_models.drive_state.faults import FAULTS, Fault, inject
from roadloop_models.drive_state.signals import NAMES, SPEED
from roadloop_models.drive_state.window import AHEAD_ROWS, ROWS

FloatArray = npt.NDArray[np.float32]
Figures = dict[str, float]

FALSE_ALARMS = 0.01
"""The share of sound windows that may give an alarm, where found faults are counted."""
LEAST_CHANGE = 0.1
"""In a signal's scale: a fault that changes less on average is no fault to find."""
_FAULT_ROWS = (40, 120)
"""A fault begins this many rows before the window's end."""
_MEAN_ROWS = 10
_KMH = 3.6


@dataclass(frozen=True)
class SpeedRows:
    """Windows of speed float32 [n, 120] and the speed 10 s later [n], m/s; all known."""

    windows: FloatArray
    truth: FloatArray


@dataclass(frozen=True)
class FaultWindow:
    """A window [120, signals], sound (no fault), or with one fault in one signal."""

    values: FloatArray
    fault: Fault | None = None
    signal: int = -1


def window_ends(rows: int, every: int, ahead: int = AHEAD_ROWS) -> range:
    """The row after each window's last, `ahead` more rows following."""
    return range(ROWS, rows - ahead + 1, every)


def speed_rows(drives: Sequence[FloatArray], every: int) -> tuple[SpeedRows, npt.NDArray[np.bool_]]:
    """(windows whose speeds are all known, which of `window_ends` of all drives these are)."""
    windows, truth = [], []
    for values in drives:
        speed = values[:, SPEED]
        for end in window_ends(len(values), every):
            windows.append(speed[end - ROWS : end])
            truth.append(speed[end - 1 + AHEAD_ROWS])
    stacked, ahead = np.array(windows, dtype=np.float32).reshape(-1, ROWS), np.array(truth, dtype=np.float32)
    known = np.isfinite(stacked).all(axis=1) & np.isfinite(ahead)
    return SpeedRows(stacked[known], ahead[known]), known


def speed_figures(rows: SpeedRows, forecast_mps: FloatArray, training: SpeedRows | None) -> Figures:
    """Mean absolute errors in km/h: the model's, and of what needs no model; linear regression where it can be fitted.

    `better_than_last_value` is the share by which the model's error is below that of the last value.
    """
    last = rows.windows[:, -1]
    forecasts = {
        "": forecast_mps,
        "_last_value": last,
        "_last_5s_mean": rows.windows[:, -_MEAN_ROWS:].mean(axis=1),
    }
    if training is not None:
        forecasts["_linear"] = _linear(training, rows.windows)
    figures = {
        f"mae_kmh_10s{name}": _KMH * float(np.abs(forecast - rows.truth).mean(dtype=np.float64))
        for name, forecast in forecasts.items()
    }
    last_value = figures["mae_kmh_10s_last_value"]
    figures["better_than_last_value"] = 1.0 - figures["mae_kmh_10s"] / last_value if last_value else 0.0
    return figures


def state_figures(truth: npt.NDArray[np.int64], probabilities: FloatArray, drive: npt.NDArray[np.int64]) -> Figures:
    """Of windows: the true state [n], probabilities [n, 3], and which drive [n] each is of."""
    called = probabilities.argmax(axis=1)
    confusion = np.zeros((len(STATES), len(STATES)), dtype=np.int64)
    np.add.at(confusion, (truth, called), 1)
    there = confusion.sum(axis=1) > 0
    recalls = confusion.diagonal()[there] / confusion.sum(axis=1)[there]
    right = [
        int(probabilities[drive == one].mean(axis=0).argmax()) == int(truth[drive == one][0])
        for one in np.unique(drive)
    ]
    figures = {
        "state_accuracy": float(confusion.diagonal().sum() / confusion.sum()),
        "state_accuracy_majority": float(confusion.sum(axis=1).max() / confusion.sum()),
        "state_balanced_accuracy": float(recalls.mean()),
        "drives_called_right": float(np.mean(right)),
    }
    jam = truth == STATES.index("jam")
    if jam.any() and not jam.all():
        scores = probabilities[:, STATES.index("jam")]
        figures["auc_jam"] = roc_auc(scores[~jam], scores[jam])
    for row, name in enumerate(STATES):
        figures |= {f"windows_{name}_as_{other}": float(confusion[row, column]) for column, other in enumerate(STATES)}
    return figures


def fault_windows(drives: Sequence[FloatArray], every: int, seed: int) -> Iterator[FaultWindow]:
    """Of every window the sound one, then one with each kind of fault in a signal that it knows, drawn by the seed.

    A fault that changes too little is left out.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    for values in drives:
        for end in window_ends(len(values), every, ahead=0):
            window = values[end - ROWS : end]
            known = np.flatnonzero(np.isfinite(window).all(axis=0))
            if not len(known):
                continue
            yield FaultWindow(window)
            for fault in FAULTS:
                signal = int(generator.choice(known))
                start = ROWS - int(generator.integers(*_FAULT_ROWS))
                faulty, change = inject(window, signal, start, fault, generator)
                if change >= LEAST_CHANGE:
                    yield FaultWindow(faulty, fault, signal)


def fault_figures(windows: Sequence[FaultWindow], scores: FloatArray, named: Sequence[str | None]) -> Figures:
    """Of each kind: area under the ROC curve, share found, share of these named right, share left out as too small.

    `named` is the signal of each window's score.
    """
    kinds = np.array([window.fault or "" for window in windows])
    sound = scores[kinds == ""]
    alarm = float(np.quantile(sound, 1.0 - FALSE_ALARMS))
    right = np.array([name == NAMES[window.signal] for window, name in zip(windows, named, strict=True)])
    coolant = np.array([window.signal == NAMES.index("CoolantTemperature") for window in windows])
    figures = {"anomaly_alarm_level": alarm}
    for fault in FAULTS:
        of_kind = kinds == fault
        if not of_kind.any():
            continue
        found = of_kind & (scores > alarm)
        figures[f"auc_{fault}"] = roc_auc(sound, scores[of_kind])
        figures[f"found_{fault}"] = float(found.sum() / of_kind.sum())
        figures[f"named_{fault}"] = float(right[found].mean()) if found.any() else 0.0
        figures[f"share_left_out_{fault}"] = 1.0 - float(of_kind.sum() / len(sound))
    for fault in ("stuck", "offset"):
        of_kind = coolant & (kinds == fault)
        if of_kind.any():
            figures[f"auc_{fault}_coolant"] = roc_auc(sound, scores[of_kind])
    return figures


def roc_auc(negative: FloatArray, positive: FloatArray) -> float:
    """The probability that a positive's score is above a negative's; equal ones count half."""
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left") + np.searchsorted(ordered, positive, side="right")
    return float(below.mean() / (2 * len(ordered)))


def _linear(training: SpeedRows, windows: FloatArray) -> FloatArray:
    """Least squares from 60 s of speed to the change in the next 10 s."""
    seen = _with_one(training.windows)
    weights, *_ = np.linalg.lstsq(seen, training.truth - training.windows[:, -1], rcond=None)
    forecast: FloatArray = windows[:, -1] + _with_one(windows) @ weights
    return forecast


def _with_one(windows: FloatArray) -> FloatArray:
    return np.concatenate([windows, np.ones((len(windows), 1), dtype=np.float32)], axis=1)
