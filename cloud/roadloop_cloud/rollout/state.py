"""A rollout and where it is: the values that plan.py works on."""

from dataclasses import dataclass
from typing import Literal

import msgspec

from roadloop_cloud.rollout.members import Member
from roadloop_cloud.rollout.spec import RolloutSpec

RolloutState = Literal["running", "paused", "succeeded", "failed", "aborted"]
ACTIVE: tuple[RolloutState, ...] = ("running", "paused")


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator has signed about a rollout. Their newest word counts, for this wave and those before it."""

    operator: str
    wave: int
    """Counted from 1."""
    approve: bool
    place: int
    """In the order in which the statements came."""


class ShadowProof(msgspec.Struct, frozen=True, kw_only=True):
    """What the sequential test decided about a wave that ran the release in the shadow."""

    wave: int
    decision: Literal["pass", "fail"]
    vehicles: int
    frames: int
    disagreed: int
    detail: str


@dataclass(frozen=True)
class Rollout:
    """A rollout and where it is. Times are seconds since the epoch."""

    spec: RolloutSpec
    members: tuple[Member, ...]
    state: RolloutState = "running"
    wave: int = 0
    waived_wave: int = -1
    """A wave that a person let pass although its gate held it."""
    soak_since_s: float | None = None
    shadow_since_s: float | None = None
    """When the current wave began to run the release in the shadow."""
    proofs: tuple[ShadowProof, ...] = ()
    reason: str = ""
    approvals: tuple[Approval, ...] = ()
    """Verified; they are no part of what `plan` changes."""


@dataclass(frozen=True)
class Plan:
    """The rollout as it is now, and whose desired state follows from that."""

    rollout: Rollout
    offer: tuple[str, ...] = ()
    """Vehicles that shall run the release."""
    take_back: tuple[str, ...] = ()
    """Vehicles that shall run again what they ran before."""
    shadow: tuple[str, ...] = ()
    """Vehicles that shall run the release beside what they run."""
    unshadow: tuple[str, ...] = ()
    """Vehicles that shall no longer do so."""
