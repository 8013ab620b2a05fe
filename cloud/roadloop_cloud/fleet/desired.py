"""Desired states: one row per vehicle, whose version rises with every change and never falls behind the vehicle's own.

A desired state is a level. It is published retained whenever the broker may not have the newest version.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from roadloop_cloud.store.fleet_tables import DesiredState
from roadloop_cloud.store.ingest_tables import Vehicle
from roadloop_cloud.store.levels import Levels
from roadloop_models.contract.messages import Desired, Policy, ReleaseRef, Reported, ShadowPolicy
from roadloop_models.typed import from_builtins

Slots = dict[str, ReleaseRef | None]


def reported_of(vehicle: Vehicle) -> Reported | None:
    """The last report of a vehicle."""
    return None if vehicle.reported is None else from_builtins(vehicle.reported, Reported)


def slots_of(session: Session, vehicle: Vehicle, task: str) -> Slots:
    """The slots of a vehicle that run a task, with what they should run (or, where nobody said, with what they do)."""
    row = session.get(DesiredState, vehicle.id)
    desired = {} if row is None else _decode(row).slots
    reported = reported_of(vehicle)
    slots: Slots = {}
    if reported is not None:
        slots |= {name: slot.running for name, slot in reported.slots.items() if slot.task == task}
    return slots | {name: ref for name, ref in desired.items() if ref.task == task}


def assign(
    session: Session,
    vehicle: Vehicle,
    slots: Mapping[str, ReleaseRef | None],
    policy: Policy,
    *,
    together: bool = False,
) -> None:
    """Say what some slots should run from now on (None: nothing is wanted); the others stay as they are.

    With `together` the slots whose release changes switch together or not at all; slots that were told so before and
    have not switched yet stay together. What a slot shall run now is no longer its shadow.
    """
    row = _row(session, vehicle)
    shadows = {name: ref for name, ref in row.shadows.items() if name not in slots}
    _put(
        row,
        vehicle,
        slots=_merged(row.slots, slots),
        policy=msgspec.to_builtins(policy),
        together=together or _switches_together(row, vehicle, slots),
        shadows=shadows,
    )


def set_shadows(
    session: Session,
    vehicle: Vehicle,
    shadows: Mapping[str, ReleaseRef | None],
    shadow_policy: ShadowPolicy | None = None,
) -> None:
    """Say which candidates run beside what some slots run (None: none); the other slots' stay as they are."""
    row = _row(session, vehicle)
    policy = row.shadow_policy if shadow_policy is None else msgspec.to_builtins(shadow_policy)
    _put(row, vehicle, shadows=_merged(row.shadows, shadows), shadow_policy=policy)


def shadows_of(session: Session, vehicle: Vehicle) -> dict[str, ReleaseRef]:
    """Slot -> the candidate that shall run in its shadow."""
    row = session.get(DesiredState, vehicle.id)
    return {} if row is None else _decode(row).shadows


def load(session: Session, vehicles: Sequence[str]) -> list[DesiredState]:
    """The rows of up to a few hundred vehicles at once, made where there are none: what is changed after that asks the
    database no more, as long as the list is kept."""
    rows = list(session.scalars(select(DesiredState).where(DesiredState.vehicle.in_(vehicles))))
    known = {row.vehicle for row in rows}
    new = [_nothing(vehicle) for vehicle in vehicles if vehicle not in known]
    session.add_all(new)
    session.flush()
    return rows + new


def overtake(row: DesiredState, reported: Reported) -> None:
    """Overtake a vehicle that knows a newer version than this database, which was restored from a backup then."""
    if reported.desired_version > row.version:
        row.version = reported.desired_version + 1


def policy_of(row: DesiredState) -> Policy:
    """How the vehicle should go about updates."""
    return from_builtins(row.policy, Policy)


def _row(session: Session, vehicle: Vehicle) -> DesiredState:
    row = session.get(DesiredState, vehicle.id)
    if row is None:
        row = _nothing(vehicle.id)
        session.add(row)
    return row


def _nothing(vehicle: str) -> DesiredState:
    return DesiredState(
        vehicle=vehicle,
        version=0,
        slots={},
        policy={},
        together=False,
        shadows={},
        shadow_policy={},
        published_version=0,
    )


def _merged(before: Mapping[str, Any], changes: Mapping[str, ReleaseRef | None]) -> dict[str, Any]:
    merged = {**before, **{name: msgspec.to_builtins(ref) for name, ref in changes.items()}}
    return {name: ref for name, ref in merged.items() if ref is not None}


def _switches_together(row: DesiredState, vehicle: Vehicle, changes: Mapping[str, ReleaseRef | None]) -> bool:
    """Whether slots that are not changed now are still on their way to switch together."""
    reported = reported_of(vehicle)
    runs = {} if reported is None else {name: slot.running for name, slot in reported.slots.items()}
    wanted = from_builtins(row.slots, dict[str, ReleaseRef])
    return row.together and any(runs.get(name) != ref for name, ref in wanted.items() if name not in changes)


def _put(row: DesiredState, vehicle: Vehicle, **fields: Any) -> None:
    """Write fields; a row that says so already keeps its version."""
    if row.version and all(getattr(row, name) == value for name, value in fields.items()):
        return
    for name, value in fields.items():
        setattr(row, name, value)
    row.version = _next_version(row, vehicle)


def _next_version(row: DesiredState, vehicle: Vehicle) -> int:
    reported = reported_of(vehicle)
    return max(row.version, reported.desired_version if reported is not None else 0) + 1


def _decode(row: DesiredState) -> Desired:
    raw = {
        "version": max(row.version, 1),
        "slots": row.slots,
        "policy": row.policy,
        "together": row.together,
        "shadows": row.shadows,
        "shadow_policy": row.shadow_policy,
    }
    return from_builtins(raw, Desired)


LEVELS = Levels(DesiredState, lambda _session, row: _decode(row))
