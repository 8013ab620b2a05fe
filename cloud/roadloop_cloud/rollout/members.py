"""A vehicle of a rollout, and what its last report says about it."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from roadloop_cloud.rollout.spec import RolloutSpec
from roadloop_models.contract.messages import ErrorInfo, ReleaseRef, Reported, ReportedSlot

MemberState = Literal["waiting", "shadow", "offered", "late", "succeeded", "failed"]
"""`late`: offered and not connected since, for longer than a vehicle may take. It has not failed: it was not asked."""

TIMED_OUT = "timed-out"
"""Error code of a vehicle that did not finish in time. It is the cloud's word, not the vehicle's."""

UNASSIGNED = -1
"""The wave of a vehicle that a ramp has not reached yet."""

_SINCE_STEP = 0.25
"""Share of the time-out after which a wait on the vehicle's own account is written down again."""


class Member(msgspec.Struct, frozen=True, gc=False):
    """One vehicle of a rollout. Times are seconds since the epoch."""

    vehicle: str
    wave: int
    state: MemberState = "waiting"
    offered_at_s: float | None = None
    since_s: float | None = None
    """From when its time counts: the first contact after the offer."""
    error: ErrorInfo | None = None
    cohort: str = ""
    """Hardware, profile and what it ran before."""
    taken_back: bool = False
    """It gets the previous release again, or will not be offered this one; its state stays what it was."""
    troubled: bool = False
    """Its slot was in trouble before the offer already."""


class Heard(msgspec.Struct, frozen=True):
    """What was last heard of a vehicle."""

    report: Reported | None = None
    online: bool = False
    seen_s: float | None = None
    """The last sign of life, seconds since the epoch."""

    def since(self, moment_s: float) -> bool:
        """Whether it has been connected at or after that moment."""
        return self.online or (self.seen_s is not None and self.seen_s >= moment_s)


NOTHING = Heard()


def judge(member: Member, heard: Heard, spec: RolloutSpec, now_s: float) -> Member:
    """The member as its vehicle's last word, or its silence, makes it."""
    if member.state == "waiting" or member.taken_back:
        return member
    report = heard.report
    if member.state == "shadow":
        return _judge_shadow(member, report, spec)
    said = verdict(spec.releases, report) if report is not None else None
    if said is not None:
        again = said == (member.state, member.error)
        return member if again else msgspec.structs.replace(member, state=said[0], error=said[1])
    if member.state in ("offered", "late"):
        return _judge_silence(member, heard, spec, now_s)
    if member.state == "succeeded" and report is not None and _runs_other(spec.releases, report):
        return msgspec.structs.replace(member, state="offered", since_s=now_s)
    return member


def verdict(releases: Sequence[ReleaseRef], reported: Reported) -> tuple[MemberState, ErrorInfo | None] | None:
    """What a report says about releases on that vehicle; None where it decides nothing (yet)."""
    done = True
    for release in releases:
        found = False
        for slot in reported.slots.values():
            if slot.task != release.task:
                continue
            found = True
            if slot.state in ("rolled-back", "refused") and same(slot.target, release):
                return "failed", slot.error or ErrorInfo(code=slot.state, detail="the vehicle gave no reason")
            done = done and slot.state == "idle" and same(slot.running, release)
        done = done and found
    return ("succeeded", None) if done else None


def in_trouble(tasks: frozenset[str], report: Reported | None) -> bool:
    """Whether a slot of these tasks does not decide now, whatever it runs."""
    return report is not None and any(slot.trouble is not None and slot.task in tasks for slot in report.slots.values())


def waits_for(releases: Sequence[ReleaseRef], report: Reported | None) -> str:
    """What a vehicle itself waits for, where nothing but that is left to do; else an empty text."""
    reasons = []
    for release in releases:
        for slot in slots_of(release.task, report):
            if slot.state == "idle" and same(slot.running, release):
                continue
            if not slot.waits_for or not same(slot.target, release):
                return ""
            reasons.append(slot.waits_for)
    return ", ".join(dict.fromkeys(reasons))


def slots_of(task: str, report: Reported | None) -> list[ReportedSlot]:
    """What a report says of the slots of a task."""
    return [] if report is None else [slot for slot in report.slots.values() if slot.task == task]


def same(one: ReleaseRef | None, other: ReleaseRef) -> bool:
    """The number and the hash decide; a version is only a name."""
    return (
        one is not None
        and one.release == other.release
        and one.manifest_sha256 == other.manifest_sha256
        and one.task == other.task
    )


def _judge_shadow(member: Member, report: Reported | None, spec: RolloutSpec) -> Member:
    for release in spec.releases:
        for slot in slots_of(release.task, report):
            shadow = slot.shadow
            if shadow is not None and shadow.state == "refused" and same(shadow.ref, release):
                error = shadow.error or ErrorInfo(code="refused", detail="the vehicle gave no reason")
                return msgspec.structs.replace(member, state="failed", error=error)
    return member


def _judge_silence(member: Member, heard: Heard, spec: RolloutSpec, now_s: float) -> Member:
    offered_s = member.offered_at_s or 0.0
    since_s = member.since_s
    if since_s is None:
        if not heard.since(offered_s):
            late = now_s - offered_s > spec.timeout_s
            return msgspec.structs.replace(member, state="late") if late and member.state != "late" else member
        return msgspec.structs.replace(member, state="offered", since_s=now_s)
    waited_s = now_s - since_s
    if waited_s > _SINCE_STEP * spec.timeout_s and waits_for(spec.releases, heard.report):
        return msgspec.structs.replace(member, since_s=now_s)
    if waited_s > spec.timeout_s:
        error = ErrorInfo(code=TIMED_OUT, detail=f"not finished {waited_s:.0f} s after its first contact")
        return msgspec.structs.replace(member, state="failed", error=error)
    return member


def _runs_other(releases: Sequence[ReleaseRef], report: Reported) -> bool:
    """It wants nothing else and runs another release: what it said before no longer holds."""
    return any(
        slot.state == "idle" and not same(slot.running, release)
        for release in releases
        for slot in slots_of(release.task, report)
    )
