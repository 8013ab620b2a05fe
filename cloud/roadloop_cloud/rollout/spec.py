"""What a rollout is asked for. Thresholds and shares are of 0 to 1; times are seconds."""

import hashlib
from typing import Annotated, Literal

import msgspec

from roadloop_cloud.rollout.evidence import Bound
from roadloop_models.contract.messages import Policy, ReleaseRef, ShadowPolicy, Share

OnFailure = Literal["cohort", "all", "pause"]
AfterCohort = Literal["continue", "pause"]


class Target(msgspec.Struct, frozen=True):
    """Which vehicles: these ids, those with any of these tags, those of this hardware, or all; of them a share.

    All but ids select only vehicles that have a slot for every task of the rollout.
    """

    vehicles: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    everyone: bool = False
    hardware: tuple[str, ...] = ()
    """Names as vehicles report them, or hardware profiles."""
    share: Share = 1.0
    """Of the vehicles that match; the same ones whenever it is asked."""


class Ramp(msgspec.Struct, frozen=True, kw_only=True):
    """Waves that grow: `first` vehicles, then `factor` times as many as have succeeded in the wave before."""

    first: Annotated[int, msgspec.Meta(ge=1)]
    factor: Annotated[float, msgspec.Meta(gt=1, le=1000)]


class ShadowSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A wave's vehicles first run the release beside what they run, until the test decides (evidence.py)."""

    bound: Bound = Bound()
    """How the release may differ from what runs, and how sure the verdict has to be."""
    max_s: Annotated[float, msgspec.Meta(gt=0)] = 86_400.0
    """The rollout is paused where the test has not decided by then."""
    policy: ShadowPolicy = ShadowPolicy()


class RolloutSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for. It never changes, and approvals are given for its hash."""

    release: ReleaseRef
    also: tuple[ReleaseRef, ...] = ()
    """Releases of other tasks that a vehicle takes together with it or not at all."""
    target: Target = Target()
    wave_sizes: tuple[int, ...] = ()
    """How many vehicles each wave adds; empty where there is a `ramp`."""
    ramp: Ramp | None = None
    success_threshold: Share
    """A wave passes its gate where at least this share of those of its vehicles that finished succeeded."""
    error_threshold: Share
    """Where more than this share of the vehicles that finished failed, it is taken back: see `on_failure`."""
    min_executed: Annotated[int, msgspec.Meta(ge=1)]
    """How many must have finished before a threshold is looked at, in a cohort as in a wave."""
    soak_s: Annotated[float, msgspec.Meta(ge=0)]
    timeout_s: Annotated[float, msgspec.Meta(gt=0)]
    """For a vehicle, from its first contact after the offer; waiting for its own conditions does not count."""
    policy: Policy = Policy()
    on_failure: OnFailure = "all"
    """Take it back from the cohort that suffers while others do well, from all, or only pause."""
    after_cohort: AfterCohort = "continue"
    approvals: Annotated[int, msgspec.Meta(ge=0, le=16)] = 0
    """How many people other than its creator must approve each wave before it is offered."""
    late_joiners: bool = False
    """Whether vehicles that match only later join the last wave."""
    shadow: ShadowSpec | None = None

    @property
    def releases(self) -> tuple[ReleaseRef, ...]:
        """All of them."""
        return (self.release, *self.also)

    @property
    def tasks(self) -> frozenset[str]:
        """The tasks that change."""
        return frozenset(ref.task for ref in self.releases)


def spec_sha256(spec: RolloutSpec) -> str:
    """What an approval is given for: the SHA-256 of the canonical JSON of the specification."""
    return hashlib.sha256(msgspec.json.encode(spec, order="deterministic")).hexdigest()
