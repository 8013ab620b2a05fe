"""What a wave has to pass: before it is offered, and before the next one may begin. Pure, and said in words."""

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from roadloop_cloud.rollout.cohorts import Counts
from roadloop_cloud.rollout.members import NOTHING, Heard, Member, in_trouble
from roadloop_cloud.rollout.state import Approval, Rollout

GateState = Literal["passed", "waits", "held"]


class Gate(msgspec.Struct, frozen=True):
    """One condition: `waits` may come true by itself, `held` needs a person, and pauses the rollout."""

    name: str
    state: GateState
    detail: str = ""


def approval(rollout: Rollout) -> Gate:
    """Whether enough people have approved the current wave. Only needed before it is offered."""
    needed, wave = rollout.spec.approvals, rollout.wave + 1
    newest: dict[str, Approval] = {}
    for said in sorted(rollout.approvals, key=lambda one: one.place):
        newest[said.operator] = said
    against = sorted(name for name, said in newest.items() if not said.approve)
    if against:
        return Gate("approval", "waits", f"rejected by {', '.join(against)}, who must approve it first")
    by = sorted(name for name, said in newest.items() if said.wave >= wave)
    if len(by) >= needed:
        return Gate("approval", "passed", f"by {', '.join(by)}" if by else "")
    has = f"{len(by)} of {needed} approvals of wave {wave}" + (f" ({', '.join(by)})" if by else "")
    return Gate("approval", "waits", has)


def finished(counts: Counts) -> Gate:
    """Whether every vehicle that was asked has answered."""
    under_way = counts.number("offered")
    return Gate("finished", "waits", f"{under_way} vehicles are at it") if under_way else Gate("finished", "passed")


def executed(rollout: Rollout, counts: Counts) -> Gate:
    """Whether enough of the wave have finished to judge it."""
    wave = counts.of(wave=rollout.wave, remaining=True)
    if wave.total == 0:
        detail = f"nobody of wave {rollout.wave + 1} is left: their cohorts were taken back"
        return Gate("executed", "held", detail)
    needed = min(rollout.spec.min_executed, wave.total)
    late = wave.states.get("late", 0)
    if wave.executed < needed:
        detail = f"{wave.executed} of at least {needed} have finished; {late} have not connected since the offer"
        return Gate("executed", "waits", detail)
    return Gate("executed", "passed", f"{late} have not connected since the offer" if late else "")


def success(rollout: Rollout, counts: Counts) -> Gate:
    """Whether enough of those of the wave that finished have succeeded."""
    wave, threshold = counts.of(wave=rollout.wave, remaining=True), rollout.spec.success_threshold
    share = f"{wave.succeeded} of {wave.executed} vehicles of wave {rollout.wave + 1} succeeded"
    if wave.succeeded >= threshold * wave.executed:
        return Gate("success", "passed", share)
    mine = (m for m in rollout.members if m.wave == rollout.wave and not m.taken_back)
    return Gate("success", "held", f"{share}, needed {threshold:.0%}: {errors(mine)}")


def health(rollout: Rollout, heard: Mapping[str, Heard]) -> Gate:
    """Whether few enough of those that run the release are in trouble since."""
    spec, troubled, succeeded = rollout.spec, 0, 0
    for member in rollout.members:
        if member.wave == rollout.wave and member.state == "succeeded" and not member.taken_back:
            succeeded += 1
            report = heard.get(member.vehicle, NOTHING).report
            troubled += not member.troubled and in_trouble(spec.tasks, report)
    if troubled > spec.error_threshold * succeeded:
        return Gate("health", "waits", f"{troubled} of {succeeded} vehicles are in trouble since they run it")
    return Gate("health", "passed")


def soak(rollout: Rollout, now_s: float) -> Gate:
    """Whether the wave has run it for long enough."""
    since_s = now_s if rollout.soak_since_s is None else rollout.soak_since_s
    left_s = rollout.spec.soak_s - (now_s - since_s)
    return Gate("soak", "waits", f"{left_s:.0f} s more") if left_s > 0 else Gate("soak", "passed")


def errors(members: Iterable[Member]) -> str:
    """One example of every kind of failure."""
    first: dict[str, str] = {}
    for member in members:
        if member.state == "failed" and member.error is not None:
            first.setdefault(member.error.code, f"{member.vehicle}: {member.error.code}: {member.error.detail}")
    return "; ".join(first.values())[:400]
