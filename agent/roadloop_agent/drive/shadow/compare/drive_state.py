"""drive-state: another state of the traffic, or another speed ahead. What is odd is told by degrees and not compared.

Seen: the last minute, float32 [120, signals].
"""

import math

from roadloop_agent.drive.handlers.drive_state import judge
from roadloop_agent.drive.pipeline import Model
from roadloop_agent.drive.shadow.compare import Comparison, Decided
from roadloop_agent.drive.shadow.wire import Seen

AGREE_MPS = 2.0

StateAndSpeed = tuple[str, float]
"""The state, and the speed in 10 s, m/s (NaN where the speed now is unknown)."""


def decide(model: Model, seen: Seen) -> Decided[StateAndSpeed]:
    """Raises FailedError as the handler."""
    (window,) = seen
    state = judge(model, window)
    return Decided((state.state, state.speed_10s_mps), state.confidence)


def agree(one: StateAndSpeed, other: StateAndSpeed) -> bool:
    """A speed that is unknown to both is no difference."""
    same_speed = abs(one[1] - other[1]) <= AGREE_MPS or (math.isnan(one[1]) and math.isnan(other[1]))
    return one[0] == other[0] and same_speed


COMPARISON = Comparison(decide, agree)
