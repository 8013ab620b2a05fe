"""A minute of OBD signals: scaled for the model, and summed up in what a check compares."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from roadloop_models.bundle.manifest import Preprocess
from roadloop_models.drive_state.signals import CLIP, COUNT, SIGNALS
from roadloop_models.errors import ModelInputError

FloatArray = npt.NDArray[np.float32]

RATE_HZ = 2.0
ROWS = 120
AHEAD_ROWS = 20
"""10 s: how far ahead the speed is forecast."""
LEVEL_ROWS = 20
MOVEMENT_STEPS = 60
STEP_ROWS = 6
"""Rows that the recurrent network takes at a time: 3 s."""
FEATURES = 2 + STEP_ROWS
"""Of a signal in a step: its mean, the share of rows that know it, and each row's difference from the one before."""
_DIFFERENCE_GAIN = 8.0
"""A signal changes little in half a second; without a gain the differences drown, in int8 altogether."""
_MOVEMENT_FLOOR = 0.003
"""Added to the mean step, in scaled units: below it a signal counts as still."""
_MOVEMENT_CENTRE = -4.0
_MOVEMENT_SCALE = 1.5

_CENTRES = np.array([signal.centre for signal in SIGNALS], dtype=np.float32)
_SCALES = np.array([signal.scale for signal in SIGNALS], dtype=np.float32)


def scale_rows(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Values in the catalogue's units [..., signals], NaN where unknown -> (scaled, known 0 or 1), same shape.

    An unknown value becomes 0, its signal's centre, and is told apart by `known`.
    """
    known = np.isfinite(values)
    scaled = np.clip((values - _CENTRES) / _SCALES, -CLIP, CLIP)
    return np.where(known, scaled, 0.0).astype(np.float32), known.astype(np.float32)


class ObdWindow:
    """`obd-window`: values in the catalogue's units float32 [120, 16], NaN where unknown -> float32 [1, 20, 128].

    20 steps of 3 s; in each, feature after feature, the 16 signals.
    """

    name = "obd-window"

    @property
    def spec(self) -> Preprocess:
        """What a manifest says to get this very function."""
        return Preprocess(self.name, {})

    def __call__(self, values: FloatArray) -> tuple[FloatArray]:
        if values.shape != (ROWS, COUNT) or values.dtype != np.float32:
            raise ModelInputError(
                f"window of OBD signals is {values.dtype} {list(values.shape)}, expected float32 {[ROWS, COUNT]}"
            )
        return (step_features(*scale_rows(values))[np.newaxis],)


def step_features(signals: FloatArray, known: FloatArray) -> FloatArray:
    """Windows as `scale_rows` gives them, [..., 120, 16] each -> [..., 20, 128].

    A difference needs both rows; without them, and in the first row, it is 0.
    """
    changes = np.zeros_like(signals)
    changes[..., 1:, :] = np.diff(signals, axis=-2) * known[..., 1:, :] * known[..., :-1, :]
    by_step = (*signals.shape[:-2], ROWS // STEP_ROWS, STEP_ROWS, COUNT)
    parts = (
        signals.reshape(by_step).mean(axis=-2, keepdims=True),
        known.reshape(by_step).mean(axis=-2, keepdims=True),
        np.clip(changes * np.float32(_DIFFERENCE_GAIN), -CLIP, CLIP).reshape(by_step),
    )
    steps = np.concatenate(parts, axis=-2)
    flat: FloatArray = steps.reshape(*steps.shape[:-2], FEATURES * COUNT).astype(np.float32, copy=False)
    return flat


class Statistics(NamedTuple):
    """What is compared of each signal: float32 [..., signals, 2], level and movement, and whether there is enough."""

    values: FloatArray
    seen: npt.NDArray[np.bool_]


def statistics(signals: FloatArray, known: FloatArray) -> Statistics:
    """Of windows as `scale_rows` gives them: [..., rows, signals] each.

    Level: the mean of the last 10 s. Movement: the logarithm of the mean step from row to row of the last 30 s, which
    is low where a signal is frozen and high where it is noisy. Each needs half of its rows.
    """
    tail, there = signals[..., -LEVEL_ROWS:, :], known[..., -LEVEL_ROWS:, :]
    level_rows = there.sum(axis=-2)
    level = (tail * there).sum(axis=-2) / np.maximum(level_rows, 1.0)
    tail, there = signals[..., -MOVEMENT_STEPS - 1 :, :], known[..., -MOVEMENT_STEPS - 1 :, :]
    pairs = there[..., 1:, :] * there[..., :-1, :]
    steps = pairs.sum(axis=-2)
    mean_step = (np.abs(np.diff(tail, axis=-2)) * pairs).sum(axis=-2) / np.maximum(steps, 1.0)
    movement = (np.log(mean_step + _MOVEMENT_FLOOR) - _MOVEMENT_CENTRE) / _MOVEMENT_SCALE
    return Statistics(
        np.stack([level, movement], axis=-1).astype(np.float32),
        np.stack([level_rows >= LEVEL_ROWS / 2, steps >= MOVEMENT_STEPS / 2], axis=-1),
    )
