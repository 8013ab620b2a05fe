"""What a rollout does next: a pure function of (rollout, what vehicles report, now).

Reports are levels: they may come late, twice, or contradict what was said before. The last decisive one counts: a
vehicle that runs the release and wants nothing else has succeeded, one that took it back or refused it has failed, and
one that was connected and says neither in time has failed too, until it says otherwise.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import msgspec

from roadloop_cloud.rollout import gates, shadowing
from roadloop_cloud.rollout.cohorts import Counts, Tally
from roadloop_cloud.rollout.members import NOTHING, UNASSIGNED, Heard, Member, in_trouble, judge
from roadloop_cloud.rollout.state import ACTIVE, Plan, Rollout, RolloutState, ShadowProof

_change = msgspec.structs.replace


def plan(rollout: Rollout, heard: Mapping[str, Heard], now_s: float) -> Plan:
    """Judge every vehicle by its last word, then go on, wait, pause, finish or take the release back.

    A paused rollout offers nothing, but its vehicles are watched: too many errors take it back all the same.
    """
    if rollout.state not in ACTIVE:
        return Plan(rollout)
    spec = rollout.spec
    members = tuple([judge(member, heard.get(member.vehicle, NOTHING), spec, now_s) for member in rollout.members])
    rollout = replace(rollout, members=members)
    counts = Counts(members)
    step = _failures(rollout, counts)
    if step is None:
        return Plan(rollout) if rollout.state == "paused" else _advance(rollout, heard, counts, now_s)
    if step.rollout.state != "running":
        return step
    onward = _advance(step.rollout, heard, Counts(step.rollout.members), now_s)
    return _joined(step, onward)


def pause(rollout: Rollout, reason: str) -> Rollout:
    """Offer nothing more until `resume`."""
    return replace(rollout, state="paused", reason=reason) if rollout.state == "running" else rollout


def resume(rollout: Rollout) -> Rollout:
    """Go on. A wave that is done and held by a gate is let pass: that is what a person resumes it for."""
    if rollout.state not in ACTIVE:
        return rollout
    counts = Counts(rollout.members)
    open_gates = (gates.executed(rollout, counts), gates.success(rollout, counts))
    waived = rollout.waived_wave
    done = gates.finished(counts).state == "passed" and _begun(rollout, counts)
    held = rollout.state == "running" or any(gate.state != "passed" for gate in open_gates)
    if (done and held) or (rollout.spec.on_failure == "pause" and _new_failures(rollout)):
        waived = rollout.wave
    return replace(rollout, state="running", reason="", waived_wave=waived, shadow_since_s=None)


def abort(rollout: Rollout, take_back_all: bool) -> Plan:
    """End it now. Vehicles that have not succeeded get the previous release again; on demand all that were offered."""
    return _end(rollout, "aborted", "aborted by a person", take_back_all) if rollout.state in ACTIVE else Plan(rollout)


def roll_back(rollout: Rollout, reason: str, cohort: str | None = None) -> Plan:
    """Take the release back from one cohort, or from all and end it; from all also after its success."""
    if cohort is not None:
        return _take_back(rollout, frozenset({cohort}), reason) if rollout.state in ACTIVE else Plan(rollout)
    return _end(rollout, "failed", reason, take_back_all=True)


def _failures(rollout: Rollout, counts: Counts) -> Plan | None:
    """What follows from failures; None where there are few enough."""
    spec = rollout.spec
    if spec.on_failure == "pause":
        reason = _new_failures(rollout)
        return Plan(pause(rollout, reason)) if reason else None
    bad = _bad_cohorts(rollout, counts)
    if spec.on_failure == "cohort" and bad and bad < counts.cohorts(remaining=True).keys():
        rest = _everybody(Counts([m for m in rollout.members if m.cohort not in bad]))
        if not rest.fails(spec):
            return _take_back(rollout, bad, _too_many(rollout, bad))
    if (bad and spec.on_failure == "cohort") or _everybody(counts).fails(spec):
        return _end(rollout, "failed", _too_many(rollout, None), take_back_all=True)
    return None


def _everybody(counts: Counts) -> Tally:
    return counts.of(remaining=True)


def _new_failures(rollout: Rollout) -> str:
    """Too many failures in the waves that no person has let pass with theirs; an empty text where there are not."""
    new = replace(rollout, members=tuple([m for m in rollout.members if m.wave > rollout.waived_wave]))
    counts = Counts(new.members)
    bad = _bad_cohorts(new, counts)
    return _too_many(new, bad or None) if bad or _everybody(counts).fails(rollout.spec) else ""


def _bad_cohorts(rollout: Rollout, counts: Counts) -> frozenset[str]:
    if counts.number("failed") == 0:
        return frozenset()
    return frozenset(name for name, tally in counts.cohorts(remaining=True).items() if tally.fails(rollout.spec))


def _too_many(rollout: Rollout, cohorts: frozenset[str] | None) -> str:
    mine = [m for m in rollout.members if not m.taken_back and (cohorts is None or m.cohort in cohorts)]
    tally = Counts(mine).of()
    among = f" of {'; '.join(sorted(cohorts))}" if cohorts else ""
    share = f"{tally.failed} of {tally.executed} vehicles{among} failed, allowed {rollout.spec.error_threshold:.0%}"
    return f"{share}: {gates.errors(mine)}"


def _take_back(rollout: Rollout, cohorts: frozenset[str], reason: str) -> Plan:
    """Those of the cohorts that have it get the previous release again, and the others are not offered it."""
    affected = [m for m in rollout.members if m.cohort in cohorts and not m.taken_back]
    members = tuple([_change(m, taken_back=True) if m.cohort in cohorts else m for m in rollout.members])
    after = replace(rollout, members=members, reason=reason, soak_since_s=None)
    return Plan(
        pause(after, reason) if rollout.spec.after_cohort == "pause" else after,
        take_back=tuple(m.vehicle for m in affected if m.offered_at_s is not None),
        unshadow=tuple(m.vehicle for m in affected if _was_only_shadowed(m)),
    )


def _advance(rollout: Rollout, heard: Mapping[str, Heard], counts: Counts, now_s: float) -> Plan:
    rollout = _assign_ramp(rollout)
    if any(_is_pending(m, rollout.wave) for m in rollout.members):
        return _begin(rollout, heard, now_s)
    if shadowing.shadowing(rollout):
        return _judge_shadow(rollout, heard, now_s)
    done = _judge_wave(rollout, heard, counts, now_s)
    if done is not None:
        return done
    if not any(_is_open_later(m, rollout.wave) for m in rollout.members):
        return _end(rollout, "succeeded", "", take_back_all=False)
    return _advance(replace(rollout, wave=rollout.wave + 1, soak_since_s=None), heard, counts, now_s)


def _begin(rollout: Rollout, heard: Mapping[str, Heard], now_s: float) -> Plan:
    """Offer the current wave what it waits for, once it is approved, and proven where that is asked for."""
    if gates.approval(rollout).state != "passed":
        return Plan(rollout)
    if rollout.spec.shadow is None or shadowing.proof_of(rollout) is not None:
        return _offer(rollout, heard, now_s)
    return _begin_shadow(rollout, now_s)


def _begin_shadow(rollout: Rollout, now_s: float) -> Plan:
    begun = tuple([m.vehicle for m in rollout.members if _is_pending(m, rollout.wave)])
    members = tuple([_change(m, state="shadow") if _is_pending(m, rollout.wave) else m for m in rollout.members])
    return Plan(replace(rollout, members=members, shadow_since_s=now_s), shadow=begun)


def _judge_shadow(rollout: Rollout, heard: Mapping[str, Heard], now_s: float) -> Plan:
    if rollout.shadow_since_s is None:
        rollout = replace(rollout, shadow_since_s=now_s)
    judged = shadowing.judge(rollout, heard)
    if judged.verdict == "undecided":
        gate = shadowing.gate(rollout, heard, now_s)
        return Plan(pause(rollout, gate.detail) if gate.state == "held" else rollout)
    proof = ShadowProof(
        wave=rollout.wave,
        decision=judged.verdict,
        vehicles=judged.vehicles,
        frames=judged.frames,
        disagreed=judged.disagreed,
        detail=judged.detail,
    )
    rollout = replace(rollout, proofs=(*rollout.proofs, proof), shadow_since_s=None)
    if judged.verdict == "fail":
        return _end(rollout, "failed", f"in the shadow of wave {rollout.wave + 1}: {judged.detail}", take_back_all=True)
    gone = tuple([m.vehicle for m in rollout.members if m.state == "failed" and _was_only_shadowed(m)])
    members = tuple([_change(m, state="waiting") if m.state == "shadow" else m for m in rollout.members])
    return replace(_offer(replace(rollout, members=members), heard, now_s), unshadow=gone)


def _judge_wave(rollout: Rollout, heard: Mapping[str, Heard], counts: Counts, now_s: float) -> Plan | None:
    """What the current wave's gates say; None where it is through."""
    if gates.finished(counts).state != "passed":
        return Plan(replace(rollout, soak_since_s=None))
    if _begun(rollout, counts) and rollout.waived_wave < rollout.wave:
        for gate in (gates.executed(rollout, counts), gates.success(rollout, counts), gates.health(rollout, heard)):
            if gate.state == "held":
                return Plan(replace(pause(rollout, gate.detail), soak_since_s=None))
            if gate.state == "waits":
                return Plan(replace(rollout, soak_since_s=None))
    since_s = now_s if rollout.soak_since_s is None else rollout.soak_since_s
    rollout = replace(rollout, soak_since_s=since_s)
    return Plan(rollout) if gates.soak(rollout, now_s).state != "passed" else None


def _begun(rollout: Rollout, counts: Counts) -> bool:
    """Whether anybody of the current wave was asked: not where all were left out before."""
    wave = counts.of(wave=rollout.wave)
    return wave.total > wave.states.get("waiting", 0)


def _offer(rollout: Rollout, heard: Mapping[str, Heard], now_s: float) -> Plan:
    def offered(member: Member) -> Member:
        word = heard.get(member.vehicle, NOTHING)
        return _change(
            member,
            state="offered",
            offered_at_s=now_s,
            since_s=now_s if word.since(now_s) else None,
            troubled=in_trouble(rollout.spec.tasks, word.report),
        )

    pending = tuple([m.vehicle for m in rollout.members if _is_pending(m, rollout.wave)])
    members = tuple([offered(m) if _is_pending(m, rollout.wave) else m for m in rollout.members])
    return Plan(replace(rollout, members=members, soak_since_s=None), offer=pending)


def _assign_ramp(rollout: Rollout) -> Rollout:
    """Give the vehicles that the ramp reaches now their wave."""
    ramp, wave = rollout.spec.ramp, rollout.wave
    if ramp is None or any(m.wave == wave for m in rollout.members):
        return rollout
    before = sum(m.wave == wave - 1 and m.state == "succeeded" and not m.taken_back for m in rollout.members)
    room = ramp.first if wave == 0 else max(ramp.first, math.ceil(ramp.factor * before))
    free = [m.vehicle for m in rollout.members if m.wave == UNASSIGNED and not m.taken_back]
    reached = frozenset(free[:room])
    members = tuple([_change(m, wave=wave) if m.vehicle in reached else m for m in rollout.members])
    return replace(rollout, members=members)


def _is_pending(member: Member, wave: int) -> bool:
    return member.state == "waiting" and 0 <= member.wave <= wave and not member.taken_back


def _is_open_later(member: Member, wave: int) -> bool:
    return member.state == "waiting" and not member.taken_back and (member.wave > wave or member.wave == UNASSIGNED)


def _was_only_shadowed(member: Member) -> bool:
    return member.state != "waiting" and member.offered_at_s is None and not member.taken_back


def _end(rollout: Rollout, state: RolloutState, reason: str, take_back_all: bool) -> Plan:
    if state == "succeeded":
        without = sorted({member.cohort for member in rollout.members if member.taken_back})
        reason = f"taken back from {'; '.join(without)}" if without else ""
        return Plan(replace(rollout, state=state, reason=reason, soak_since_s=None))
    back = [m for m in rollout.members if m.offered_at_s is not None and not m.taken_back]
    reached = frozenset([m.vehicle for m in back if take_back_all or m.state != "succeeded"])
    members = tuple([_change(m, taken_back=True) if m.vehicle in reached else m for m in rollout.members])
    ended = replace(rollout, state=state, reason=reason, members=members, soak_since_s=None)
    return Plan(
        ended,
        take_back=tuple([m.vehicle for m in back if m.vehicle in reached]),
        unshadow=tuple([m.vehicle for m in rollout.members if _was_only_shadowed(m)]),
    )


def _joined(first: Plan, second: Plan) -> Plan:
    return Plan(
        second.rollout,
        offer=first.offer + second.offer,
        take_back=first.take_back + second.take_back,
        shadow=first.shadow + second.shadow,
        unshadow=first.unshadow + second.unshadow,
    )
