"""Candidates in the shadow, as a person starts and stops them outside of a rollout, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from roadloop_cloud.fleet import desired
from roadloop_cloud.fleet.choosing import Chosen, choose
from roadloop_cloud.registry.releases import Releases, release_ref
from roadloop_cloud.rollout.evidence import Bound, Evidence, judge
from roadloop_cloud.store.database import Database
from roadloop_cloud.store.fleet_tables import RolloutClaim
from roadloop_cloud.store.ingest_tables import Vehicle
from roadloop_models.contract.messages import ReleaseRef, ShadowPolicy, ShadowReport
from roadloop_models.contract.shadows import same_content
from roadloop_models.errors import BadInputError, ConflictError


@dataclass(frozen=True)
class ShadowedSlot:
    """One slot that has a candidate in its shadow; `report` is what the vehicle said of it last."""

    vehicle: str
    slot: str
    ref: ReleaseRef
    report: ShadowReport | None


@dataclass(frozen=True)
class ShadowRun:
    """One release in the shadow of the fleet's slots."""

    ref: ReleaseRef
    slots: tuple[ShadowedSlot, ...]
    evidence: Evidence


class ShadowRuns:
    """Application service on desired states."""

    def __init__(self, database: Database, releases: Releases) -> None:
        self._database = database
        self._releases = releases

    def start(self, task: str, release: int, chosen: Chosen, policy: ShadowPolicy) -> list[str]:
        """Have a release decide in the shadow of every slot of the task; the vehicles.

        Another release that is there gives way. Raises NotFoundError (no such release or vehicle), BadInputError
        (nobody is chosen, or all run it already), ConflictError where a rollout of the task has a vehicle: it decides
        what runs there.
        """
        ref = release_ref(self._releases.get(task, release))
        with self._database.transaction() as session:
            started = []
            for vehicle in choose(session, task, chosen):
                _refuse_claimed(session, task, vehicle.id)
                slots = desired.slots_of(session, vehicle, task)
                shadowed = {name: ref for name, now in slots.items() if now is None or not same_content(now, ref)}
                if shadowed:
                    desired.set_shadows(session, vehicle, shadowed, policy)
                    started.append(vehicle.id)
        if not started:
            raise BadInputError(f"{task} {ref.version} (release {release}) is what these vehicles run already")
        return started

    def stop(self, task: str, chosen: Chosen) -> list[str]:
        """Take whatever is in the shadow of the task's slots away; the vehicles.

        Raises NotFoundError, BadInputError where nobody is chosen, ConflictError as `start`.
        """
        with self._database.transaction() as session:
            stopped = []
            for vehicle in choose(session, task, chosen):
                slots = [name for name, ref in desired.shadows_of(session, vehicle).items() if ref.task == task]
                if slots:
                    _refuse_claimed(session, task, vehicle.id)
                    desired.set_shadows(session, vehicle, dict.fromkeys(slots))
                    stopped.append(vehicle.id)
        return stopped

    def show(self, task: str | None, bound: Bound) -> Sequence[ShadowRun]:
        """Each release that is in a shadow now, by task and number, and how it does."""
        found: dict[tuple[str, int, str], list[ShadowedSlot]] = {}
        with self._database.reading() as session:
            for vehicle in session.scalars(select(Vehicle).order_by(Vehicle.id)):
                for shadowed in _shadowed(session, vehicle):
                    ref = shadowed.ref
                    if task in (None, ref.task):
                        found.setdefault((ref.task, ref.release, ref.manifest_sha256), []).append(shadowed)
        return [_run(tuple(slots), bound) for _, slots in sorted(found.items())]


def _run(slots: tuple[ShadowedSlot, ...], bound: Bound) -> ShadowRun:
    reports = [shadowed.report for shadowed in slots if shadowed.report is not None]
    return ShadowRun(slots[0].ref, slots, judge(reports, bound))


def _shadowed(session: Session, vehicle: Vehicle) -> list[ShadowedSlot]:
    reported = desired.reported_of(vehicle)
    found = []
    for slot, ref in desired.shadows_of(session, vehicle).items():
        said = None if reported is None or slot not in reported.slots else reported.slots[slot].shadow
        about_it = said if said is not None and same_content(said.ref, ref) else None
        found.append(ShadowedSlot(vehicle.id, slot, ref, about_it))
    return found


def _refuse_claimed(session: Session, task: str, vehicle: str) -> None:
    claim = session.get(RolloutClaim, (task, vehicle))
    if claim is not None:
        raise ConflictError(
            f"vehicle {vehicle} is in rollout {claim.rollout_id} of {task}, which is active and decides what is in its "
            f"shadow; wait for its end or abort it"
        )
