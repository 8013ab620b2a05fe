"""traffic-speed: a forecast is another where it is further off than a good model errs in 15 minutes.

Seen: float32 [window, sensors], mph, and the index of the first step to forecast.
"""

import numpy as np

from roadloop_agent.drive.handlers.speed import forecast
from roadloop_agent.drive.pipeline import Model
from roadloop_agent.drive.shadow.compare import Comparison, Decided
from roadloop_agent.drive.shadow.wire import Seen
from roadloop_models.preprocess import FloatArray, SpeedWindow

AGREE_MPH = 3.0
"""Root mean square over sensors and steps."""


def decide(model: Model, seen: Seen) -> Decided[FloatArray]:
    """Raises ModelInputError, FailedError as the handler."""
    speeds_mph, step = seen
    return Decided(forecast(model, model.run(model.preprocess(SpeedWindow(speeds_mph, int(step))))), None)


def agree(one: FloatArray, other: FloatArray) -> bool:
    """Of two forecasts float32 [sensors, horizon], mph."""
    return one.shape == other.shape and float(np.sqrt(np.mean((one - other) ** 2))) <= AGREE_MPH


COMPARISON = Comparison(decide, agree)
