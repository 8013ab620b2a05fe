"""traffic-flow: a forecast is another where it is further off than a good model errs.

Seen: float32 [window], vehicles, and the index of the step to forecast.
"""

from roadloop_agent.drive.handlers.flow import forecast
from roadloop_agent.drive.pipeline import Model
from roadloop_agent.drive.shadow.compare import Comparison, Decided
from roadloop_agent.drive.shadow.wire import Seen
from roadloop_models.preprocess import FlowWindow

AGREE_VEH = 5.0


def decide(model: Model, seen: Seen) -> Decided[float]:
    """Raises ModelInputError, FailedError as the handler."""
    flow_veh, step = seen
    return Decided(forecast(model, FlowWindow(flow_veh, int(step))), None)


def agree(one: float, other: float) -> bool:
    """Of two forecasts in vehicles."""
    return abs(one - other) <= AGREE_VEH


COMPARISON = Comparison(decide, agree)
