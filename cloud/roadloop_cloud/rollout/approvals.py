"""Approvals of a rollout's waves: signed statements in its rows, verified each time that they are counted."""

import logging

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from roadloop_cloud.rollout import rows
from roadloop_cloud.rollout.spec import RolloutSpec, spec_sha256
from roadloop_cloud.rollout.state import Approval
from roadloop_cloud.rollout.statements import Operators, Signatory, Signed
from roadloop_cloud.store.database import now_utc
from roadloop_cloud.store.fleet_tables import RolloutApproval, RolloutRow
from roadloop_models.errors import ConflictError, RoadloopError
from roadloop_models.typed import from_builtins

APPROVAL, CREATION = "rollout-approval", "rollout-creation"

_log = logging.getLogger(__name__)


def sign_creation(session: Session, rollout_id: int, spec: RolloutSpec, author: Signatory) -> None:
    """Keep the proof of who asked for the rollout."""
    statement = {"rollout": rollout_id, "spec_sha256": spec_sha256(spec), "time": now_utc().isoformat()}
    _keep(session, rollout_id, author.sign(CREATION, statement))


def sign_approval(session: Session, row: RolloutRow, who: Signatory, *, wave: int, approve: bool) -> None:
    """Keep an operator's word. Raises ConflictError where they approve what they have asked for themselves."""
    if approve and who.name == row.created_by:
        raise ConflictError(f"rollout {row.id}: {who.name} has created it; somebody else must approve it")
    statement = {
        "rollout": row.id,
        "wave": wave,
        "spec_sha256": spec_sha256(rows.spec_of(row)),
        "decision": "approve" if approve else "reject",
        "time": now_utc().isoformat(),
    }
    _keep(session, row.id, who.sign(APPROVAL, statement))
    row.revision += 1


def verified(session: Session, row: RolloutRow, spec: RolloutSpec, operators: Operators) -> tuple[Approval, ...]:
    """What operators have signed about this very rollout, in the order in which it came; the rest is logged."""
    found = []
    for place, signed in enumerate(statements(session, row.id)):
        if signed.kind != APPROVAL:
            continue
        try:
            said = operators.verify(APPROVAL, signed)
        except RoadloopError as error:
            _log.warning("rollout %d: an approval does not count: %s", row.id, error)
            continue
        approve = said.get("decision") == "approve"
        if (said.get("rollout"), said.get("spec_sha256")) != (row.id, spec_sha256(spec)):
            _log.warning("rollout %d: an approval by %s is for another one", row.id, signed.operator)
        elif not (approve and signed.operator == row.created_by):
            wave = int(said.get("wave", 0))
            found.append(Approval(operator=signed.operator, wave=wave, approve=approve, place=place))
    return tuple(found)


def statements(session: Session, rollout_id: int) -> list[Signed]:
    """All that was signed about a rollout, as it was signed, in the order in which it came."""
    query = select(RolloutApproval.signed).where(RolloutApproval.rollout_id == rollout_id).order_by(RolloutApproval.id)
    return [from_builtins(raw, Signed) for raw in session.scalars(query)]


def _keep(session: Session, rollout_id: int, signed: Signed) -> None:
    raw = msgspec.to_builtins(signed)
    session.add(RolloutApproval(rollout_id=rollout_id, operator=signed.operator, signed=raw, received=now_utc()))
