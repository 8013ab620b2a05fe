"""A rollout between its rows and the values that plan.py works on."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from roadloop_cloud.rollout.members import Member
from roadloop_cloud.rollout.spec import RolloutSpec
from roadloop_cloud.rollout.state import Rollout, ShadowProof
from roadloop_cloud.store.database import now_utc
from roadloop_cloud.store.fleet_tables import RolloutMember, RolloutRow
from roadloop_models.contract.messages import ErrorInfo, ReleaseRef
from roadloop_models.errors import NotFoundError
from roadloop_models.typed import from_builtins

_MEMBER_COLUMNS = (
    RolloutMember.vehicle,
    RolloutMember.wave,
    RolloutMember.state,
    RolloutMember.offered_at_s,
    RolloutMember.since_s,
    RolloutMember.error,
    RolloutMember.cohort,
    RolloutMember.taken_back,
    RolloutMember.troubled,
)
"""In the order of Member's fields."""


def get(session: Session, rollout_id: int, lock: bool = False) -> RolloutRow:
    """One rollout's row. Raises NotFoundError."""
    row = session.get(RolloutRow, rollout_id, with_for_update=lock)
    if row is None:
        raise NotFoundError(f"no rollout {rollout_id}; 'roadloop rollout list' shows those there are")
    return row


def decode(session: Session, row: RolloutRow) -> Rollout:
    """Rows to values, without the approvals."""
    return Rollout(
        spec=spec_of(row),
        members=_members(session, row.id),
        state=row.state,  # type: ignore[arg-type]
        wave=row.wave,
        waived_wave=row.waived_wave,
        soak_since_s=row.soak_since_s,
        shadow_since_s=row.shadow_since_s,
        proofs=tuple(from_builtins(proof, ShadowProof) for proof in row.proofs),
        reason=row.reason,
    )


def encode(session: Session, before: Rollout, after: Rollout, row: RolloutRow) -> None:
    """Write what changed. Members that are the same objects as before are not looked at."""
    row.state, row.reason = after.state, after.reason[:500]
    row.wave, row.waived_wave = after.wave, after.waived_wave
    row.soak_since_s, row.shadow_since_s = after.soak_since_s, after.shadow_since_s
    row.proofs = [msgspec.to_builtins(proof) for proof in after.proofs]
    row.updated = now_utc()
    row.revision += 1
    changed = [new for old, new in zip(before.members, after.members, strict=True) if new is not old]
    if changed:
        member = RolloutMember.__table__
        statement = (
            update(member)  # type: ignore[arg-type]
            .where(member.c.rollout_id == row.id, member.c.vehicle == bindparam("key"))
            .values({name: bindparam(f"new_{name}") for name in _CHANGING})
        )
        session.connection().execute(statement, [_changes(one) for one in changed])


def insert(session: Session, rollout_id: int, members: Iterable[Member], first_position: int) -> None:
    """Add members in their order."""
    session.add_all(
        RolloutMember(
            rollout_id=rollout_id,
            vehicle=member.vehicle,
            position=first_position + index,
            wave=member.wave,
            state=member.state,
            cohort=member.cohort,
            troubled=member.troubled,
            taken_back=member.taken_back,
        )
        for index, member in enumerate(members)
    )


def record_previous(session: Session, rollout_id: int, previous: Mapping[str, Mapping[str, ReleaseRef | None]]) -> None:
    """Keep what vehicles were to run before the offer: vehicle -> slot -> release."""
    if not previous:
        return
    member = RolloutMember.__table__
    statement = (
        update(member)  # type: ignore[arg-type]
        .where(member.c.rollout_id == rollout_id, member.c.vehicle == bindparam("key"))
        .values(previous=bindparam("new_previous"))
    )
    rows = [{"key": vehicle, "new_previous": msgspec.to_builtins(slots)} for vehicle, slots in previous.items()]
    session.connection().execute(statement, rows)


def previous_of(session: Session, rollout_id: int) -> dict[str, dict[str, ReleaseRef | None]]:
    """Vehicle -> slot -> what it was to run before the offer, of all that were offered it."""
    query = select(RolloutMember.vehicle, RolloutMember.previous).where(
        RolloutMember.rollout_id == rollout_id, RolloutMember.offered_at_s.is_not(None)
    )
    return {
        vehicle: {slot: decode_ref(ref) for slot, ref in (previous or {}).items()}
        for vehicle, previous in session.execute(query)
    }


def spec_of(row: RolloutRow) -> RolloutSpec:
    """What was asked for."""
    return from_builtins(row.spec, RolloutSpec)


def encode_spec(spec: RolloutSpec) -> dict[str, Any]:
    """For the row."""
    encoded: dict[str, Any] = msgspec.to_builtins(spec)
    return encoded


def decode_ref(raw: dict[str, Any] | None) -> ReleaseRef | None:
    """A release from a JSON column."""
    return None if raw is None else from_builtins(raw, ReleaseRef)


_CHANGING = ("wave", "state", "offered_at_s", "since_s", "error", "taken_back", "troubled")


def _changes(member: Member) -> dict[str, Any]:
    values = {f"new_{name}": getattr(member, name) for name in _CHANGING}
    values["new_error"] = None if member.error is None else msgspec.to_builtins(member.error)
    return {"key": member.vehicle, **values}


def _members(session: Session, rollout_id: int) -> tuple[Member, ...]:
    query = select(*_MEMBER_COLUMNS).where(RolloutMember.rollout_id == rollout_id).order_by(RolloutMember.position)
    return tuple(
        Member(vehicle, wave, state, offered_at_s, since_s, _error(error), cohort, taken_back, troubled)
        for vehicle, wave, state, offered_at_s, since_s, error, cohort, taken_back, troubled in session.execute(query)
    )


def _error(raw: dict[str, Any] | None) -> ErrorInfo | None:
    return None if raw is None else from_builtins(raw, ErrorInfo)
