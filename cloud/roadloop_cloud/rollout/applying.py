"""Makes a plan true: the rollout's rows, and the desired states that follow, in one transaction."""

from collections.abc import Iterator, Mapping, Sequence

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from roadloop_cloud.fleet import desired
from roadloop_cloud.rollout import rows
from roadloop_cloud.rollout.hearing import chunks
from roadloop_cloud.rollout.members import same
from roadloop_cloud.rollout.spec import RolloutSpec
from roadloop_cloud.rollout.state import ACTIVE, Plan, Rollout
from roadloop_cloud.store.fleet_tables import DesiredState, RolloutClaim, RolloutRow
from roadloop_cloud.store.ingest_tables import Vehicle
from roadloop_models.contract.messages import Policy, ReleaseRef, SwitchWhen
from roadloop_models.typed import from_builtins


def apply(session: Session, row: RolloutRow, before: Rollout, step: Plan) -> None:
    """Write what a plan says. Repeating a tick after a kill gives the same: all of this is one transaction."""
    rows.encode(session, before, step.rollout, row)
    spec = step.rollout.spec
    _offer(session, row.id, spec, step.offer)
    _take_back(session, row.id, spec, step.take_back)
    for vehicle in _vehicles(session, step.shadow):
        assert spec.shadow is not None
        desired.set_shadows(session, vehicle, _slots(session, vehicle, spec), spec.shadow.policy)
    for vehicle in _vehicles(session, step.unshadow):
        desired.set_shadows(session, vehicle, dict.fromkeys(_slots(session, vehicle, spec)))
    _release_claims(session, row.id, step)


def _offer(session: Session, rollout_id: int, spec: RolloutSpec, offer: Sequence[str]) -> None:
    previous: dict[str, Mapping[str, ReleaseRef | None]] = {}
    for vehicle in _vehicles(session, offer):
        wanted: dict[str, ReleaseRef | None] = {}
        previous[vehicle.id] = {}
        for ref in spec.releases:
            runs = desired.slots_of(session, vehicle, ref.task)
            previous[vehicle.id] = {**previous[vehicle.id], **runs}
            wanted |= dict.fromkeys(runs, ref)
        desired.assign(session, vehicle, wanted, spec.policy, together=bool(spec.also))
    rows.record_previous(session, rollout_id, previous)


def _take_back(session: Session, rollout_id: int, spec: RolloutSpec, take_back: tuple[str, ...]) -> None:
    """Give back what was to run before, wherever it is this rollout's release that is to run now."""
    if not take_back:
        return
    before = rows.previous_of(session, rollout_id)
    for vehicle in _vehicles(session, take_back):
        row = session.get(DesiredState, vehicle.id)
        now = {} if row is None else from_builtins(row.slots, dict[str, ReleaseRef])
        ours = {slot for slot, ref in now.items() if any(same(ref, release) for release in spec.releases)}
        slots = {slot: ref for slot, ref in before.get(vehicle.id, {}).items() if slot in ours}
        if slots:
            desired.assign(session, vehicle, slots, at_once(spec.policy), together=bool(spec.also))


def at_once(policy: Policy) -> Policy:
    """The policy by which a release is taken back: a vehicle does not keep a bad one until its maintenance window."""
    return msgspec.structs.replace(policy, switch_when=SwitchWhen(), max_disagreement=None)


def _slots(session: Session, vehicle: Vehicle, spec: RolloutSpec) -> dict[str, ReleaseRef | None]:
    return {slot: ref for ref in spec.releases for slot in desired.slots_of(session, vehicle, ref.task)}


def _vehicles(session: Session, ids: Sequence[str]) -> Iterator[Vehicle]:
    """The rows, with their desired states loaded beside them, a few hundred at a time."""
    for chunk in chunks(ids):
        states = desired.load(session, chunk)
        yield from session.scalars(select(Vehicle).where(Vehicle.id.in_(chunk)).order_by(Vehicle.id)).all()
        del states  # held until here, so that the session remembers them


def _release_claims(session: Session, rollout_id: int, step: Plan) -> None:
    """An ended rollout holds nobody; one that goes on no longer holds the vehicles that it took it back from."""
    claims = delete(RolloutClaim).where(RolloutClaim.rollout_id == rollout_id)
    if step.rollout.state not in ACTIVE:
        session.execute(claims)
        return
    if step.take_back or step.unshadow:
        free = [member.vehicle for member in step.rollout.members if member.taken_back]
        for chunk in chunks(free):
            session.execute(claims.where(RolloutClaim.vehicle.in_(chunk)))
