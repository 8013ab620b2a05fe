"""traffic-flow on board: what a road detector counted goes out, and what it will count in the next five minutes."""

import math
import time

import numpy as np

from roadloop_agent.config import SlotTable
from roadloop_agent.drive.frames import Frame
from roadloop_agent.drive.handlers import Around, Outcome
from roadloop_agent.drive.pipeline import Model
from roadloop_models.contract.streams import FLOW_FORECAST
from roadloop_models.errors import FailedError
from roadloop_models.preprocess import FlowWindow
from roadloop_models.sketches.outcomes import FlowOutcomes
from roadloop_models.sketches.signals import flow_signals


class FlowHandler:
    """See the module."""

    def __init__(self, table: SlotTable) -> None:
        self._outcomes = FlowOutcomes()

    def handle(self, frame: Frame, model: Model | None, around: Around) -> Outcome:
        """Counts are sent with or without a model; a forecast needs an unbroken window.

        Raises ModelInputError where the window has another shape, FailedError where the answer is not finite.
        """
        step = frame.data
        if model is None or step.window is None:
            row = flow_row(step.step, step.flow_veh, dropped=around.dropped)
            return Outcome(rows=[(FLOW_FORECAST, row)])
        started_ns = time.perf_counter_ns()
        forecast_veh = forecast(model, step.window)
        latency_us = (time.perf_counter_ns() - started_ns) / 1000.0
        flow_veh, error_veh = step.window.flow_veh, self._outcomes.observe(step.step, step.flow_veh)
        self._outcomes.forecast(step.step, forecast_veh)
        row = flow_row(
            step.step, step.flow_veh, forecast_veh, latency_us=latency_us, release=model.release, dropped=around.dropped
        )
        return Outcome(
            rows=[(FLOW_FORECAST, row)],
            decided=True,
            latency_us=latency_us,
            decision=lambda: flow_line(step.step, step.flow_veh, forecast_veh),
            signals=lambda: flow_signals(flow_veh, forecast_veh, error_veh),
            seen=(flow_veh, np.asarray(step.window.step)),
        )


def forecast(model: Model, window: FlowWindow) -> float:
    """Vehicles in the step after the window. Raises FailedError where the answer is not finite."""
    forecast_veh: float = model.postprocess(model.run(model.preprocess(window)))
    if not math.isfinite(forecast_veh):
        raise FailedError(f"{model.name} answers with a value that is not finite")
    return forecast_veh


def flow_row(
    step: int,
    flow_veh: float,
    forecast_veh: float = math.nan,
    *,
    latency_us: float = math.nan,
    release: float = math.nan,
    dropped: int,
) -> list[float]:
    """A sample of the stream flow-forecast; what only a forecast has is NaN without one."""
    return [float(step), flow_veh, forecast_veh, latency_us, float(release), float(dropped)]


def flow_line(step: int, flow_veh: float, forecast_veh: float) -> dict[str, object]:
    """A forecast as a line of JSON tells it; `step` is the one that it is about, `flow_veh` the count before it."""
    return {"step": step + 1, "flow_veh": flow_veh, "forecast_veh": round(forecast_veh, 2)}
