"""What forecasters of five-minute steps share: one window after the other, rows that are steps, times of day."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from roadloop_models.preprocess import STEPS_PER_DAY, FloatArray
from roadloop_models.tasks.base import Disturbance, Progress

Steps = npt.NDArray[np.int64]
"""Absolute steps or row indices, int64 [n]."""


def forecast_windows(
    starts: Steps,
    window: Callable[[int], Any],
    forecast: Callable[[Any], FloatArray | float],
    disturbance: Disturbance | None,
    progress: Progress,
    *,
    every: int,
) -> FloatArray:
    """What is forecast from the window at each start, made worse before: float32 [n, ...], as `forecast` gives each.

    `progress` hears of one window in `every`.
    """
    forecasts = []
    for index, start in enumerate(starts.tolist()):
        item = window(start)
        if disturbance is not None:
            item = disturbance(item, index)
        forecasts.append(forecast(item))
        if index % every == 0:
            progress(index, len(starts))
    progress(len(starts), len(starts))
    return np.array(forecasts, dtype=np.float32)


def time_labels(steps: Steps) -> npt.NDArray[np.str_]:
    """The time of day of each step, as people name it."""
    hour = steps % STEPS_PER_DAY * 24 // STEPS_PER_DAY
    return np.select([hour < 6, hour < 10, hour < 15, hour < 20], ["night", "morning", "midday", "evening"], "late")


def step_keys(steps: Steps) -> frozenset[bytes]:
    """What tells rows apart that are known by their absolute steps."""
    return frozenset(step.tobytes() for step in steps)
