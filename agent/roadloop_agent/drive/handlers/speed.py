"""traffic-speed on board: what all road sensors showed goes out, and a forecast of the next hour."""

import math
import time
from collections.abc import Iterator

import numpy as np

from roadloop_agent.config import SlotTable
from roadloop_agent.drive.frames import Frame
from roadloop_agent.drive.handlers import Around, Outcome, Rows
from roadloop_agent.drive.pipeline import Model
from roadloop_models.contract.streams import ROAD_SPEED, SPEED_DECISION, SPEEDS_PER_SAMPLE
from roadloop_models.errors import FailedError
from roadloop_models.preprocess import FloatArray
from roadloop_models.sketches.outcomes import SpeedOutcomes
from roadloop_models.sketches.signals import speed_signals

HORIZON_STEPS = (2, 5, 8, 11)
"""Which steps of a forecast are 15, 30, 45 and 60 minutes ahead."""


class SpeedHandler:
    """See the module."""

    def __init__(self, table: SlotTable) -> None:
        self._outcomes = SpeedOutcomes()

    def handle(self, frame: Frame, model: Model | None, around: Around) -> Outcome:
        """Observations are sent with or without a model; a forecast needs an unbroken window.

        Raises ModelInputError where the window has another shape.
        """
        step = frame.data
        observed = [(ROAD_SPEED, row) for row in speed_observations(step.step, step.observed_mph)]
        if model is None or step.window is None:
            return Outcome(rows=observed)
        started_ns = time.perf_counter_ns()
        outputs, window_mph = model.run(model.preprocess(step.window)), step.window.speeds_mph
        latency_us = (time.perf_counter_ns() - started_ns) / 1000.0

        def rows() -> Rows:
            forecast_mph = forecast(model, outputs)
            row = speed_row(
                forecast_mph, step.observed_mph, step=step.step, latency_us=latency_us, release=model.release
            )
            return [*observed, (SPEED_DECISION, row)]

        def signals() -> list[float]:
            forecast_mph = forecast(model, outputs)
            errors = self._outcomes.observe(step.step, step.observed_mph)
            self._outcomes.forecast(step.step, forecast_mph)
            return speed_signals(window_mph, forecast_mph, errors)

        return Outcome(
            later=rows,
            decided=True,
            latency_us=latency_us,
            decision=lambda: speed_line(step.step + 1, forecast(model, outputs)),
            signals=signals,
            seen=(step.window.speeds_mph, np.asarray(step.window.step)),
        )


def forecast(model: Model, outputs: tuple[FloatArray, ...]) -> FloatArray:
    """What the model answered as a forecast: float32 [sensors, horizon], mph. Raises FailedError where not finite."""
    forecast_mph: FloatArray = model.postprocess(outputs)
    if not np.isfinite(forecast_mph).all():
        raise FailedError(f"{model.name} answers with values that are not finite")
    return forecast_mph


def speed_observations(step: int, observed_mph: FloatArray) -> Iterator[list[float]]:
    """Samples of the stream road-speed: one step, SPEEDS_PER_SAMPLE sensors each.

    The last sample begins early enough to be full: it repeats sensors, which costs less on the wire than columns with
    holes. Fewer sensors than that are padded with NaN.
    """
    speeds = observed_mph.tolist()
    count = max(len(speeds), SPEEDS_PER_SAMPLE)
    speeds += [math.nan] * (count - len(speeds))
    for start in range(0, count, SPEEDS_PER_SAMPLE):
        first = min(start, count - SPEEDS_PER_SAMPLE)
        yield [float(step), float(first), *speeds[first : first + SPEEDS_PER_SAMPLE]]


def speed_row(
    forecast_mph: FloatArray, observed_mph: FloatArray, *, step: int, latency_us: float, release: int
) -> list[float]:
    """A sample of the stream speed-decision, from a forecast [sensors, horizon] and what was just observed."""
    share = np.full(len(forecast_mph), 1.0 / len(forecast_mph), dtype=np.float32)
    means = (share @ forecast_mph).tolist()  # a dot product: five times quicker than four means of columns
    observed = float(share @ observed_mph)
    return [float(step), *(means[index] for index in HORIZON_STEPS), observed, latency_us, float(release)]


def speed_line(step: int, forecast_mph: FloatArray) -> dict[str, object]:
    """A forecast as a line of JSON tells it; `step` is the first that it is about."""
    return {"step": step, "forecast": [[round(value, 3) for value in sensor] for sensor in forecast_mph.tolist()]}
