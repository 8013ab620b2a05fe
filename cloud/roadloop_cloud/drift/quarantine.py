"""Vehicles whose word is not taken, until somebody lifts it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from roadloop_cloud.store.drift_tables import VehicleQuarantine
from roadloop_cloud.store.ingest_tables import Vehicle
from roadloop_models.errors import NotFoundError

TRUSTED_FOR = timedelta(days=30)
"""How long a vehicle that a person has let out is not put back by itself."""


@dataclass(frozen=True)
class Quarantined:
    """One vehicle, and why."""

    vehicle: str
    since: datetime
    by: str
    reason: str
    lifted: datetime | None
    lifted_by: str | None


def put(session: Session, vehicle: str, reason: str, by: str, now: datetime, *, by_itself: bool = False) -> bool:
    """Quarantine a vehicle; False where it is already, or where a person let it out lately and this is `by_itself`.

    Raises NotFoundError where there is no such vehicle.
    """
    if session.get(Vehicle, vehicle) is None:
        raise NotFoundError(f"no vehicle '{vehicle}'; 'roadloop vehicles list' shows them")
    row = session.get(VehicleQuarantine, vehicle)
    if row is not None and (row.lifted is None or (by_itself and now - row.lifted < TRUSTED_FOR)):
        return False
    if row is None:
        row = VehicleQuarantine(vehicle=vehicle)
        session.add(row)
    row.since, row.by, row.reason, row.lifted, row.lifted_by = now, by, reason[:500], None, None
    return True


def lift(session: Session, vehicle: str, by: str, now: datetime) -> None:
    """Believe it again. Raises NotFoundError where it is not in quarantine."""
    row = session.get(VehicleQuarantine, vehicle)
    if row is None or row.lifted is not None:
        raise NotFoundError(f"vehicle '{vehicle}' is not in quarantine; 'roadloop drift quarantine' shows who is")
    row.lifted, row.lifted_by = now, by


def entries(session: Session) -> Sequence[Quarantined]:
    """All that ever were, the newest first."""
    rows = session.scalars(select(VehicleQuarantine).order_by(VehicleQuarantine.since.desc()))
    return [Quarantined(row.vehicle, row.since, row.by, row.reason, row.lifted, row.lifted_by) for row in rows]


def present(session: Session) -> set[str]:
    """Those in quarantine now."""
    return set(session.scalars(select(VehicleQuarantine.vehicle).where(VehicleQuarantine.lifted.is_(None))))
