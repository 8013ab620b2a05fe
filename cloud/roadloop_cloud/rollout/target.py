"""Which vehicles a rollout takes, and why it leaves out the others. Pure."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from roadloop_cloud.rollout.cohorts import cohort_of
from roadloop_cloud.rollout.members import same, slots_of
from roadloop_cloud.rollout.spec import Target
from roadloop_models.bundle.manifest import Manifest
from roadloop_models.contract.messages import ReleaseRef, Reported


@dataclass(frozen=True)
class Candidate:
    """What is known of a vehicle when a rollout is made."""

    vehicle: str
    hardware: str = ""
    profile: str = ""
    tags: tuple[str, ...] = ()
    online: bool = False
    seen_s: float | None = None
    agent_version: str | None = None
    report: Reported | None = None
    wanted: dict[str, ReleaseRef] = field(default_factory=dict)
    """Slot -> what it shall run."""
    busy: dict[str, int] = field(default_factory=dict)
    """Task -> the active rollout that has it."""
    failed: dict[tuple[str, int], str] = field(default_factory=dict)
    """(task, release) -> why an earlier rollout failed here."""

    def slots(self, task: str) -> dict[str, ReleaseRef | None]:
        """The slots of a task, with what they run or shall run."""
        reported = {} if self.report is None else self.report.slots
        found: dict[str, ReleaseRef | None] = {n: slot.running for n, slot in reported.items() if slot.task == task}
        return found | {name: ref for name, ref in self.wanted.items() if ref.task == task}

    def cohort(self, tasks: Iterable[str]) -> str:
        """The cohort that it belongs to in a rollout of these tasks."""
        versions = [ref.version for task in sorted(tasks) for ref in self.slots(task).values() if ref is not None]
        return cohort_of(self.hardware, self.profile, versions)


@dataclass(frozen=True)
class Requirement:
    """A release, and what it asks of a vehicle."""

    ref: ReleaseRef
    manifest: Manifest


@dataclass(frozen=True)
class Selection:
    """Who takes part, who does not and why, and who is in another rollout."""

    chosen: tuple[Candidate, ...]
    left_out: dict[str, str]
    collisions: dict[str, int]
    """Vehicle -> the active rollout that has it."""


def select(candidates: Sequence[Candidate], target: Target, requirements: Sequence[Requirement]) -> Selection:
    """Of the vehicles that match, those that can take the releases; a share of them where one is asked for."""
    named = frozenset(target.vehicles)
    able, left_out, collisions = [], {}, {}
    for candidate in candidates:
        if candidate.vehicle not in named and not matches(candidate, target):
            continue
        reason = next((why for one in requirements if (why := obstacle(candidate, one))), "")
        if not reason and all(_runs(candidate, one.ref) for one in requirements):
            reason = "runs it already"
        if reason:
            left_out[candidate.vehicle] = reason
            continue
        able.append(candidate)
    salt = "+".join(f"{one.ref.task}/{one.ref.release}" for one in requirements)
    chosen = _share(able, target.share, salt)
    tasks = {one.ref.task for one in requirements}
    for candidate in chosen:
        found = next((rollout for task, rollout in candidate.busy.items() if task in tasks), None)
        if found is not None:
            collisions[candidate.vehicle] = found
    return Selection(tuple(chosen), left_out, collisions)


def matches(candidate: Candidate, target: Target) -> bool:
    """Whether a vehicle is meant, other than by its id."""
    if target.hardware and not {candidate.hardware, candidate.profile} & set(target.hardware):
        return False
    if target.tags:
        return bool(set(candidate.tags) & set(target.tags))
    return target.everyone or bool(target.hardware)


def obstacle(candidate: Candidate, requirement: Requirement) -> str:
    """Why a vehicle cannot take a release; an empty text where it can, as far as is known."""
    ref, manifest = requirement.ref, requirement.manifest
    if not candidate.slots(ref.task):
        return f"has no slot of task {ref.task}, or has never reported"
    if candidate.agent_version and _numbers(candidate.agent_version) < _numbers(manifest.min_agent_version):
        needed = manifest.min_agent_version
        return f"agent {candidate.agent_version} is too old: {ref.task} {ref.version} needs {needed}"
    has = [variant.key for variant in manifest.variants]
    for slot in slots_of(ref.task, candidate.report):
        if f"{slot.runtime}-{slot.precision}" not in has:
            return f"runs {slot.runtime}-{slot.precision}; {ref.task} {ref.version} has {', '.join(has)}"
        if slot.state in ("rolled-back", "refused") and same(slot.target, ref):
            return _before(ref, slot.error.code if slot.error else slot.state)
    failed = candidate.failed.get((ref.task, ref.release))
    return _before(ref, failed) if failed else ""


def in_share(vehicle: str, share: float, salt: str) -> bool:
    """Whether a vehicle that comes later belongs to the share of all."""
    return _place(vehicle, salt) < share


def _before(ref: ReleaseRef, code: str) -> str:
    return f"took release {ref.release} back before ({code}); publish it --again to offer it once more"


def _runs(candidate: Candidate, ref: ReleaseRef) -> bool:
    """It runs the release in every slot of the task, and neither it nor the cloud wants anything else."""
    reported = slots_of(ref.task, candidate.report)
    settled = all(slot.state == "idle" and same(slot.running, ref) for slot in reported)
    wanted = [one for one in candidate.wanted.values() if one.task == ref.task]
    return bool(reported) and settled and all(same(one, ref) for one in wanted)


def _share(able: Sequence[Candidate], share: float, salt: str) -> list[Candidate]:
    if share >= 1.0:
        return list(able)
    number = math.ceil(share * len(able) - 1e-9)
    return sorted(able, key=lambda one: _place(one.vehicle, salt))[:number]


def _place(vehicle: str, salt: str) -> float:
    """A place in 0..1 that is the vehicle's own for this release."""
    digest = hashlib.sha256(f"share/{salt}/{vehicle}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _numbers(version: str) -> tuple[int, ...]:
    """`0.2.1` as (0, 2, 1); what is not a number ends it."""
    numbers: list[int] = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)
