"""From what a person says about a rollout, and what the workspace says otherwise, to its specification."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from roadloop_cloud.config import RolloutConfig
from roadloop_cloud.rollout.spec import RolloutSpec, ShadowSpec, Target
from roadloop_cloud.rollout.target import Requirement
from roadloop_cloud.rollout.waves import parse_ramp, wave_sizes
from roadloop_models.contract.messages import SwitchWhen
from roadloop_models.errors import ConfigError
from roadloop_models.typed import from_builtins


@dataclass(frozen=True)
class Settings:
    """How a rollout goes about it; what is None is taken from the workspace's [rollout]."""

    waves: tuple[str, ...] | None = None
    ramp: str | None = None
    """`1x2`, instead of waves."""
    success_threshold: float | None = None
    error_threshold: float | None = None
    min_executed: int | None = None
    soak_s: float | None = None
    timeout_s: float | None = None
    on_failure: str | None = None
    after_cohort: str | None = None
    approvals: int | None = None
    late_joiners: bool | None = None
    shadow: ShadowSpec | None = None
    health_window_s: float | None = None
    fetch_bytes_per_s: int | None = None
    max_disagreement: float | None = None
    max_latency_ratio: float | None = None
    transport: str | None = None
    metered: bool | None = None
    switch_when: SwitchWhen | None = None


_POLICY = (
    "health_window_s",
    "fetch_bytes_per_s",
    "max_disagreement",
    "max_latency_ratio",
    "transport",
    "metered",
    "switch_when",
)
"""Settings that go to the vehicle."""


def specification(
    requirements: Sequence[Requirement], target: Target, vehicles: int, settings: Settings, defaults: RolloutConfig
) -> RolloutSpec:
    """The specification for so many vehicles. Raises ConfigError naming what is out of range."""
    asked = {name: value for name, value in vars(settings).items() if value is not None}
    merged: dict[str, Any] = {**msgspec.structs.asdict(defaults), **asked}
    merged.pop("cost_per_gb")
    policy = {key: merged.pop(key) for key in _POLICY if key in merged}
    waves, ramp = merged.pop("waves"), merged.pop("ramp", None)
    if ramp is not None and settings.waves is not None:
        raise ConfigError("rollout: waves and a ramp exclude each other")
    raw = {
        "release": requirements[0].ref,
        "also": tuple(one.ref for one in requirements[1:]),
        "target": target,
        "wave_sizes": () if ramp is not None else wave_sizes(waves, vehicles),
        "ramp": None if ramp is None else parse_ramp(ramp),
        "policy": policy,
        **merged,
    }
    try:
        return from_builtins(msgspec.to_builtins(raw), RolloutSpec)
    except msgspec.ValidationError as error:
        raise ConfigError(f"rollout: {error}") from error
