"""localization: another error of the odometer. Distance and position follow from it by a filter and are not compared.

Seen: the odometer's trace, float32 [window + 1], m/s.
"""

from math import sqrt

from roadloop_agent.drive.handlers.localization import CONFIDENT_M
from roadloop_agent.drive.pipeline import Model
from roadloop_agent.drive.shadow.compare import Comparison, Decided
from roadloop_agent.drive.shadow.wire import Seen
from roadloop_models.localization import Drift, SpeedTrace

AGREE_MPS = 0.05
"""5 m in an outage of 100 s."""
OUTAGE_S = 100.0


def decide(model: Model, seen: Seen) -> Decided[float]:
    """The correction, m/s; as sure as of the distance after an outage of OUTAGE_S. Raises FailedError."""
    (speeds_mps,) = seen
    drift: Drift = model.postprocess(model.run(model.preprocess(SpeedTrace(speeds_mps))))
    sigma_m = sqrt(drift.density_m2ps * OUTAGE_S)
    return Decided(drift.correction_mps, 1.0 / (1.0 + sigma_m / CONFIDENT_M))


def agree(one: float, other: float) -> bool:
    """Of two corrections, m/s."""
    return abs(one - other) <= AGREE_MPS


COMPARISON = Comparison(decide, agree)
