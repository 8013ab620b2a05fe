"""What the database knows of vehicles when a rollout is made."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from roadloop_cloud.rollout.members import TIMED_OUT
from roadloop_cloud.rollout.target import Candidate
from roadloop_cloud.store.fleet_tables import DesiredState, RolloutClaim, RolloutMember, RolloutRow
from roadloop_cloud.store.ingest_tables import Vehicle
from roadloop_models.contract.messages import ReleaseRef, Reported
from roadloop_models.typed import from_builtins


def candidates(session: Session, releases: Collection[tuple[str, int]], not_in: int | None = None) -> list[Candidate]:
    """All vehicles by id, for these releases (task, number); with `not_in` without that rollout's members."""
    tasks = {task for task, _ in releases}
    busy: dict[str, dict[str, int]] = {}
    claims = select(RolloutClaim.vehicle, RolloutClaim.task, RolloutClaim.rollout_id).where(
        RolloutClaim.task.in_(tasks)
    )
    for vehicle, task, rollout in session.execute(claims):
        busy.setdefault(vehicle, {})[task] = rollout
    failed = _failures(session, releases)
    return [
        Candidate(
            vehicle=row.id,
            hardware=row.hardware,
            profile=row.profile,
            tags=tuple(row.tags),
            online=row.online,
            seen_s=None if row.last_seen is None else row.last_seen.timestamp(),
            agent_version=row.agent_version,
            report=None if row.reported is None else from_builtins(row.reported, Reported),
            wanted=from_builtins(slots or {}, dict[str, ReleaseRef]),
            busy=busy.get(row.id, {}),
            failed=failed.get(row.id, {}),
        )
        for row, slots in session.execute(_query(not_in))
    ]


def _query(not_in: int | None) -> Select[Vehicle, dict[str, Any]]:
    query = select(Vehicle, DesiredState.slots).outerjoin(DesiredState, DesiredState.vehicle == Vehicle.id)
    if not_in is not None:
        member = select(RolloutMember.vehicle).where(
            RolloutMember.rollout_id == not_in, RolloutMember.vehicle == Vehicle.id
        )
        query = query.where(~member.exists())
    return query.order_by(Vehicle.id)


def _failures(session: Session, releases: Collection[tuple[str, int]]) -> dict[str, dict[tuple[str, int], str]]:
    """Vehicle -> (task, release) -> the error with which an earlier rollout failed there by the vehicle's own word."""
    found: dict[str, dict[tuple[str, int], str]] = {}
    for rollout_id, spec in session.execute(select(RolloutRow.id, RolloutRow.spec)):
        mine = {(ref["task"], ref["release"]) for ref in (spec["release"], *spec.get("also", ()))} & set(releases)
        if not mine:
            continue
        query = select(RolloutMember.vehicle, RolloutMember.error).where(
            RolloutMember.rollout_id == rollout_id, RolloutMember.state == "failed"
        )
        for vehicle, error in session.execute(query):
            code = (error or {}).get("code", "failed")
            if code != TIMED_OUT:
                found.setdefault(vehicle, {}).update(dict.fromkeys(mine, code))
    return found
