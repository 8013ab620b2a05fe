"""Forecasts wait for what they were about: their error is measured when the outcome arrives, without a label."""

import math
from collections import deque

import numpy as np

from roadloop_models.preprocess import FloatArray
from roadloop_models.sketches.signals import ForecastErrors

SHORT_STEPS, LONG_STEPS = 3, 12
"""15 and 60 minutes, in steps of five."""


class SpeedOutcomes:
    """The forecasts of the last hour. Owned by one thread."""

    def __init__(self) -> None:
        self._forecasts: deque[tuple[int, FloatArray]] = deque(maxlen=LONG_STEPS + 1)

    def observe(self, step: int, observed_mph: FloatArray) -> ForecastErrors:
        """How wrong earlier forecasts were about `step`, at which [sensors] speeds were observed.

        A forecast of step s is about s + 1 and after. A step that does not follow ends the memory: a source that
        began anew is not what the old forecasts were about.
        """
        if self._forecasts and not 0 < step - self._forecasts[-1][0] <= LONG_STEPS:
            self._forecasts.clear()
        short = self._error(step, observed_mph, SHORT_STEPS)
        long = self._error(step, observed_mph, LONG_STEPS)
        return ForecastErrors(_rmse(short), _rmse(long), _mean(long), _median(short))

    def forecast(self, step: int, forecast_mph: FloatArray) -> None:
        """Remember what was forecast [sensors, horizon] when `step` was the last one observed."""
        self._forecasts.append((step, forecast_mph))

    def _error(self, step: int, observed_mph: FloatArray, ahead: int) -> FloatArray | None:
        for made, forecast_mph in self._forecasts:
            if made == step - ahead and forecast_mph.shape[1] >= ahead:
                error: FloatArray = forecast_mph[:, ahead - 1] - observed_mph
                return error
        return None


class FlowOutcomes:
    """The last forecast of a count. Owned by one thread."""

    def __init__(self) -> None:
        self._about: tuple[int, float] | None = None

    def observe(self, step: int, flow_veh: float) -> float:
        """By how much the forecast about `step` was too high; NaN where there was none."""
        about = self._about
        return math.nan if about is None or about[0] != step else about[1] - flow_veh

    def forecast(self, step: int, forecast_veh: float) -> None:
        """Remember what was forecast about the step after `step`."""
        self._about = (step + 1, forecast_veh)


def _rmse(error: FloatArray | None) -> float:
    return math.nan if error is None else math.sqrt(float(error @ error) / max(error.size, 1))


def _mean(error: FloatArray | None) -> float:
    return math.nan if error is None else float(error.mean())


def _median(error: FloatArray | None) -> float:
    return math.nan if error is None else float(np.median(np.abs(error)))
