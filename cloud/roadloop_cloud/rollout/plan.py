"""What a rollout does next: a pure function of (rollout, what vehicles report, now).

Reports are levels: they may come late, twice, or contradict what was said before. The last decisive one counts: a
vehicle that runs the release and wants nothing else has succeeded, one that took it back or refused it has failed, and
one that says neither in time has failed too, until it says otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import msgspec

from roadloop_models.contract.messages import ErrorInfo, Policy, ReleaseRef, Reported

RolloutState = Literal["running", "paused", "succeeded", "failed", "aborted"]
MemberState = Literal["waiting", "offered", "succeeded", "failed"]
ACTIVE: tuple[RolloutState, ...] = ("running", "paused")
TIMED_OUT = "timed-out"
"""Error code of a vehicle that did not finish in time. It is the cloud's word, not the vehicle's."""

_Ratio = Annotated[float, msgspec.Meta(ge=0, le=1)]


class RolloutSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for. Thresholds are shares of 0 to 1."""

    release: ReleaseRef
    wave_sizes: Annotated[tuple[int, ...], msgspec.Meta(min_length=1)]
    success_threshold: _Ratio
    """A wave passes its gate where at least this share of its vehicles succeeded."""
    error_threshold: _Ratio
    """The rollout is taken back where more than this share of the vehicles that finished failed."""
    min_executed: Annotated[int, msgspec.Meta(ge=1)]
    """How many must have finished before `error_threshold` is looked at."""
    soak_s: Annotated[float, msgspec.Meta(ge=0)]
    timeout_s: Annotated[float, msgspec.Meta(gt=0)]
    policy: Policy = Policy()


@dataclass(frozen=True)
class Member:
    """One vehicle of a rollout."""

    vehicle: str
    wave: int
    state: MemberState = "waiting"
    offered_at_s: float | None = None
    error: ErrorInfo | None = None


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
    reason: str = ""


@dataclass(frozen=True)
class Plan:
    """The rollout as it is now, and whose desired state follows from that."""

    rollout: Rollout
    offer: tuple[str, ...] = ()
    """Vehicles that shall run the release."""
    take_back: tuple[str, ...] = ()
    """Vehicles that shall run again what they ran before."""


def plan(rollout: Rollout, reports: Mapping[str, Reported], now_s: float) -> Plan:
    """Judge every vehicle by its last report, then go on, wait, pause, finish or take the release back.

    A paused rollout offers nothing, but its vehicles are watched: too many errors take it back all the same.
    """
    if rollout.state not in ACTIVE:
        return Plan(rollout)
    spec = rollout.spec
    members = tuple(_judge(member, reports.get(member.vehicle), spec, now_s) for member in rollout.members)
    rollout = replace(rollout, members=members)
    failed, executed = _count(members, "failed"), _count(members, "failed", "succeeded")
    if executed >= spec.min_executed and failed > spec.error_threshold * executed:
        reason = f"{failed} of {executed} vehicles failed, allowed {spec.error_threshold:.0%}: {_errors(members)}"
        return _end(rollout, "failed", reason, take_back_all=True)
    return Plan(rollout) if rollout.state == "paused" else _advance(rollout, now_s)


def pause(rollout: Rollout, reason: str) -> Rollout:
    """Offer nothing more until `resume`."""
    return replace(rollout, state="paused", reason=reason) if rollout.state == "running" else rollout


def resume(rollout: Rollout) -> Rollout:
    """Go on. A wave that was held by its gate is let pass: that is what a person resumes it for."""
    if rollout.state != "paused":
        return rollout
    held = _gate(rollout) is not None and not _open(rollout)
    return replace(rollout, state="running", reason="", waived_wave=rollout.wave if held else rollout.waived_wave)


def abort(rollout: Rollout, take_back_all: bool) -> Plan:
    """End it now. Vehicles that have not succeeded get the previous release again; on demand all that were offered."""
    return _end(rollout, "aborted", "aborted by a person", take_back_all) if rollout.state in ACTIVE else Plan(rollout)


def verdict(release: ReleaseRef, reported: Reported) -> tuple[MemberState, ErrorInfo | None] | None:
    """What a report says about a release on that vehicle; None where it decides nothing (yet)."""
    slots = [slot for slot in reported.slots.values() if slot.task == release.task]
    for slot in slots:
        if slot.state in ("rolled-back", "refused") and _same(slot.target, release):
            return "failed", slot.error or ErrorInfo(code=slot.state, detail="the vehicle gave no reason")
    if slots and all(slot.state == "idle" and _same(slot.running, release) for slot in slots):
        return "succeeded", None
    return None


def _judge(member: Member, reported: Reported | None, spec: RolloutSpec, now_s: float) -> Member:
    if member.state == "waiting":
        return member
    said = verdict(spec.release, reported) if reported is not None else None
    if said is not None:
        return replace(member, state=said[0], error=said[1])
    waited_s = now_s - (member.offered_at_s or 0.0)
    if member.state == "offered" and waited_s > spec.timeout_s:
        late = ErrorInfo(code=TIMED_OUT, detail=f"not finished {waited_s:.0f} s after the offer")
        return replace(member, state="failed", error=late)
    return member


def _advance(rollout: Rollout, now_s: float) -> Plan:
    waiting = tuple(m.vehicle for m in rollout.members if m.wave <= rollout.wave and m.state == "waiting")
    if waiting:
        return Plan(_offer(rollout, now_s), offer=waiting)
    if _open(rollout):
        return Plan(replace(rollout, soak_since_s=None))
    held = _gate(rollout)
    if held is not None and rollout.waived_wave < rollout.wave:
        return Plan(replace(pause(rollout, held), soak_since_s=None))
    since_s = now_s if rollout.soak_since_s is None else rollout.soak_since_s
    if now_s - since_s < rollout.spec.soak_s:
        return Plan(replace(rollout, soak_since_s=since_s))
    if rollout.wave + 1 == len(rollout.spec.wave_sizes):
        return _end(rollout, "succeeded", "", take_back_all=False)
    return _advance(replace(rollout, wave=rollout.wave + 1, soak_since_s=None), now_s)


def _offer(rollout: Rollout, now_s: float) -> Rollout:
    members = tuple(
        replace(m, state="offered", offered_at_s=now_s) if m.wave <= rollout.wave and m.state == "waiting" else m
        for m in rollout.members
    )
    return replace(rollout, members=members, soak_since_s=None)


def _end(rollout: Rollout, state: RolloutState, reason: str, take_back_all: bool) -> Plan:
    ended = replace(rollout, state=state, reason=reason, soak_since_s=None)
    if state == "succeeded":
        return Plan(ended)
    offered = [m for m in rollout.members if m.state != "waiting"]
    return Plan(ended, take_back=tuple(m.vehicle for m in offered if take_back_all or m.state != "succeeded"))


def _gate(rollout: Rollout) -> str | None:
    """Why the current wave may not pass, or None."""
    wave = [member for member in rollout.members if member.wave == rollout.wave]
    succeeded = sum(member.state == "succeeded" for member in wave)
    if succeeded >= rollout.spec.success_threshold * len(wave):
        return None
    share = f"{succeeded} of {len(wave)} vehicles of wave {rollout.wave + 1} succeeded"
    return f"{share}, needed {rollout.spec.success_threshold:.0%}: {_errors(wave)}"


def _open(rollout: Rollout) -> bool:
    return any(member.state == "offered" for member in rollout.members)


def _count(members: tuple[Member, ...], *states: MemberState) -> int:
    return sum(member.state in states for member in members)


def _errors(members: tuple[Member, ...] | list[Member]) -> str:
    first: dict[str, str] = {}
    for member in members:
        if member.state == "failed" and member.error is not None:
            first.setdefault(member.error.code, f"{member.vehicle}: {member.error.code}: {member.error.detail}")
    return "; ".join(first.values())[:400]


def _same(one: ReleaseRef | None, other: ReleaseRef) -> bool:
    """The number and the hash decide; a version is only a name."""
    return one is not None and (one.task, one.release, one.manifest_sha256) == (
        other.task,
        other.release,
        other.manifest_sha256,
    )
