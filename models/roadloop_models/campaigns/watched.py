"""What a campaign may look at, task by task, and what it can keep."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from roadloop_models.contract.streams import DETECTION, DRIVE_STATE, POSITION, SIGN_DECISION, Stream
from roadloop_models.errors import ConfigError
from roadloop_models.settings import nearest
from roadloop_models.signals import VSS

Keeps = Literal["frames", "signals"]

UNCERTAINTY = "uncertainty"
"""1 - the mean of the sample's confidence fields, as the spool values it too."""
NOVELTY = "novelty"
"""How far the frame is from what this vehicle saw before, 0 to 1; see novelty.py."""
DISAGREEMENT = "disagreement"
"""1 where a release in the shadow decided otherwise, 0 where it agreed; unknown until it has answered, if ever."""
SCORES = (UNCERTAINTY, NOVELTY, DISAGREEMENT)


@dataclass(frozen=True)
class Watched:
    """One task: the stream whose samples are its decisions, and what is kept of it."""

    stream: Stream
    keeps: Keeps

    @property
    def names(self) -> frozenset[str]:
        """Everything that a condition may name."""
        return frozenset((*(field.name for field in self.stream.fields), *SCORES, *VSS))


WATCHED = {
    "traffic-sign": Watched(SIGN_DECISION, "frames"),
    "object-detection": Watched(DETECTION, "frames"),
    "drive-state": Watched(DRIVE_STATE, "signals"),
    "localization": Watched(POSITION, "signals"),
}
"""Forecasts are not here: all that they see is in their telemetry. Nor is vehicle-count: its frames follow the road
without a sample for each."""


def watched(task: str, where: str = "task") -> Watched:
    """Raises ConfigError, beginning with `where`, for a task without campaigns."""
    if task not in WATCHED:
        raise ConfigError(f"{where}: '{task}' has no campaigns{nearest(task, WATCHED)}")
    return WATCHED[task]


def told(stream: Stream, row: Sequence[float]) -> dict[str, float]:
    """A sample as the cloud will read it: each field rounded to its resolution. Conditions see these values, so that
    what telemetry has stored predicts what a vehicle does."""
    values = {
        field.name: math.nan if math.isnan(value) else round(value / field.resolution) * field.resolution
        for field, value in zip(stream.fields, row, strict=True)
    }
    sure = [values[field.name] for field in stream.fields if field.role == "confidence"]
    sure = [min(max(value, 0.0), 1.0) for value in sure if not math.isnan(value)]
    values[UNCERTAINTY] = 1.0 - sum(sure) / len(sure) if sure else math.nan
    return values
