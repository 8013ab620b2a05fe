"""A rollout between its rows and the values that plan.py works on."""

from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from roadloop_cloud.rollout.plan import Member, Rollout, RolloutSpec
from roadloop_cloud.store.database import now_utc
from roadloop_cloud.store.fleet_tables import RolloutMember, RolloutRow
from roadloop_models.contract.messages import ErrorInfo, ReleaseRef


def members_of(session: Session, rollout_id: int) -> list[RolloutMember]:
    """The members in the order of their waves."""
    query = select(RolloutMember).where(RolloutMember.rollout_id == rollout_id)
    return list(session.scalars(query.order_by(RolloutMember.wave, RolloutMember.vehicle)))


def decode(row: RolloutRow, members: list[RolloutMember]) -> Rollout:
    """Rows to values."""
    return Rollout(
        spec=spec_of(row),
        members=tuple(
            Member(
                vehicle=member.vehicle,
                wave=member.wave,
                state=member.state,  # type: ignore[arg-type]
                offered_at_s=member.offered_at_s,
                error=None if member.error is None else msgspec.convert(member.error, ErrorInfo),
            )
            for member in members
        ),
        state=row.state,  # type: ignore[arg-type]
        wave=row.wave,
        waived_wave=row.waived_wave,
        soak_since_s=row.soak_since_s,
        reason=row.reason,
    )


def encode(rollout: Rollout, row: RolloutRow, members: list[RolloutMember]) -> None:
    """Values into rows; a row that says the same already is not touched."""
    before = decode(row, members)
    if before == rollout:
        return
    row.state, row.reason = rollout.state, rollout.reason[:500]
    row.wave, row.waived_wave, row.soak_since_s = rollout.wave, rollout.waived_wave, rollout.soak_since_s
    row.updated = now_utc()
    for member, old, new in zip(members, before.members, rollout.members, strict=True):
        if old != new:
            member.state, member.offered_at_s = new.state, new.offered_at_s
            member.error = None if new.error is None else msgspec.to_builtins(new.error)


def spec_of(row: RolloutRow) -> RolloutSpec:
    """What was asked for."""
    return msgspec.convert(row.spec, RolloutSpec)


def encode_spec(spec: RolloutSpec) -> dict[str, Any]:
    """For the row."""
    encoded: dict[str, Any] = msgspec.to_builtins(spec)
    return encoded


def encode_ref(ref: ReleaseRef | None) -> dict[str, Any] | None:
    """A release for a JSON column."""
    return None if ref is None else msgspec.to_builtins(ref)


def decode_ref(raw: dict[str, Any] | None) -> ReleaseRef | None:
    """A release from a JSON column."""
    return None if raw is None else msgspec.convert(raw, ReleaseRef)
