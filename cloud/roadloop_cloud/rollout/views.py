"""A rollout as it is shown: vehicles, waves, cohorts and gates beside what vehicles say."""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from roadloop_cloud.rollout import gates, shadowing
from roadloop_cloud.rollout.cohorts import Counts, Tally
from roadloop_cloud.rollout.gates import Gate
from roadloop_cloud.rollout.members import NOTHING, Heard
from roadloop_cloud.rollout.spec import RolloutSpec
from roadloop_cloud.rollout.state import ACTIVE, Rollout
from roadloop_models.contract.messages import Reported


@dataclass(frozen=True)
class MemberView:
    """One vehicle of a rollout, beside its own last word."""

    vehicle: str
    wave: int
    """Counted from 0; -1 where a ramp has not reached it yet."""
    state: str
    error: str | None
    report: Reported | None
    cohort: str = ""
    taken_back: bool = False
    offered_at_s: float | None = None


@dataclass(frozen=True)
class RolloutView:
    """A rollout as it is shown."""

    id: int
    spec: RolloutSpec
    state: str
    reason: str
    wave: int
    members: tuple[MemberView, ...]
    waves: tuple[tuple[int, Tally], ...] = ()
    """Wave (from 0; -1: not reached by the ramp yet) and its tally."""
    cohorts: tuple[tuple[str, Tally], ...] = ()
    gates: tuple[Gate, ...] = ()
    """Of the current wave, in their order."""
    created_by: str | None = None


def view(
    rollout_id: int, rollout: Rollout, heard: Mapping[str, Heard], now_s: float, created_by: str | None
) -> RolloutView:
    """Put it together."""
    counts = Counts(rollout.members)
    return RolloutView(
        id=rollout_id,
        spec=rollout.spec,
        state=rollout.state,
        reason=rollout.reason,
        wave=rollout.wave,
        members=tuple(
            MemberView(
                vehicle=member.vehicle,
                wave=member.wave,
                state=member.state,
                error=None if member.error is None else f"{member.error.code}: {member.error.detail}",
                report=heard.get(member.vehicle, NOTHING).report,
                cohort=member.cohort,
                taken_back=member.taken_back,
                offered_at_s=member.offered_at_s,
            )
            for member in rollout.members
        ),
        waves=tuple((wave, counts.of(wave=wave)) for wave in sorted(counts.waves, key=lambda one: (one < 0, one))),
        cohorts=tuple(counts.cohorts().items()),
        gates=_gates(rollout, heard, counts, now_s) if rollout.state in ACTIVE else (),
        created_by=created_by,
    )


def _gates(rollout: Rollout, heard: Mapping[str, Heard], counts: Counts, now_s: float) -> tuple[Gate, ...]:
    """All gates of the current wave; those after the first that does not pass are still to come."""
    spec = rollout.spec
    begun = counts.of(wave=rollout.wave)
    offered = begun.total > begun.states.get("waiting", 0) + begun.states.get("shadow", 0)
    found = []
    if spec.approvals:
        found.append(gates.approval(rollout))
    if spec.shadow is not None:
        found.append(shadowing.gate(rollout, heard, now_s))
    if offered:
        done = gates.finished(counts)
        judged = (gates.executed(rollout, counts), gates.success(rollout, counts), gates.health(rollout, heard))
        found.append(done)
        # Before all have answered nothing is held: what the numbers say now may yet change.
        found += [
            msgspec.structs.replace(gate, state="waits") if done.state == "waits" and gate.state == "held" else gate
            for gate in judged
        ]
        if all(gate.state == "passed" for gate in found):
            found.append(gates.soak(rollout, now_s))
    return tuple(found)
