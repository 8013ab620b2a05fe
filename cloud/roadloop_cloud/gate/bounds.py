"""How much better a candidate has to be, and how much worse it may be at what. Errors are in the metric's own unit."""

from typing import Annotated

import msgspec

from roadloop_cloud.config import GateConfig
from roadloop_models.errors import NotFoundError

_Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]
_NotNegative = Annotated[float, msgspec.Meta(ge=0)]


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a candidate of one task is held to."""

    slice_worse: _NotNegative
    """So much worse than the incumbent it may be on a slice, ..."""
    disturbed_worse: _NotNegative
    """... and so much on disturbed rows."""
    margin: _NotNegative = 0.0
    """By more than this it must be better on all rows, ..."""
    confidence: _Share = 0.95
    """... with this confidence, one-sided."""
    slice_confidence: _Share = 0.99
    """It is refused for a slice, or under a disturbance, where it is worse by more than the bound with this confidence:
    there are dozens of slices, and one of them always looks bad by chance."""
    least_independent: Annotated[float, msgspec.Meta(ge=1)] = 3.0
    """A slice of fewer independent rows says nothing."""
    ece_worse: _NotNegative = 0.03
    """So much worse its expected calibration error may be."""
    latency_ratio: Annotated[float, msgspec.Meta(gt=0)] = 1.5
    """So many times the incumbent's latency it may take, ..."""
    latency_slack_us: _NotNegative = 50.0
    """... and this on top: shorter times are mostly noise."""
    size_ratio: Annotated[float, msgspec.Meta(gt=0)] = 1.5
    """So many times as many bytes the file may have."""
    resamples: Annotated[int, msgspec.Meta(ge=100, le=100_000)] = 1000
    seed: Annotated[int, msgspec.Meta(ge=0)] = 20261123


DEFAULTS = {
    "traffic-sign": Bounds(slice_worse=0.02, disturbed_worse=0.02),
    "traffic-speed": Bounds(slice_worse=0.5, disturbed_worse=0.5),
    "traffic-flow": Bounds(slice_worse=1.0, disturbed_worse=1.0),
    "drive-state": Bounds(slice_worse=1.0, disturbed_worse=1.0),
    "localization": Bounds(slice_worse=0.5, disturbed_worse=0.5),
    "vehicle-count": Bounds(slice_worse=0.1, disturbed_worse=0.1),
    "object-detection": Bounds(slice_worse=0.05, disturbed_worse=0.05),
}


def bounds_of(task: str, configured: GateConfig | None = None) -> Bounds:
    """A task's bounds: its defaults, and what the workspace sets otherwise. Raises NotFoundError for another task."""
    if task not in DEFAULTS:
        raise NotFoundError(f"no bounds for the gate of '{task}'; there are those of {', '.join(DEFAULTS)}")
    if configured is None:
        return DEFAULTS[task]
    chosen = {name: value for name, value in msgspec.structs.asdict(configured).items() if value is not None}
    return msgspec.structs.replace(DEFAULTS[task], **chosen)
