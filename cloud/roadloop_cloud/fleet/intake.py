"""What vehicles say about themselves: status and reports, written to their rows."""

from collections.abc import Mapping

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from roadloop_cloud.campaigns import levels
from roadloop_cloud.fleet import desired
from roadloop_cloud.store.database import now_utc
from roadloop_cloud.store.fleet_tables import DesiredState
from roadloop_cloud.store.ingest_tables import Vehicle
from roadloop_models.contract.messages import Reported, Status


def record(session: Session, statuses: Mapping[str, Status], reports: Mapping[str, Reported]) -> set[str]:
    """Write the newest status and report of each vehicle; returns the ids that are none of this fleet's."""
    ids = set(statuses) | set(reports)
    vehicles = {row.id: row for row in session.scalars(select(Vehicle).where(Vehicle.id.in_(ids)))}
    known = {row.vehicle: row for row in session.scalars(select(DesiredState).where(DesiredState.vehicle.in_(reports)))}
    for vehicle_id, vehicle in vehicles.items():
        if vehicle_id in statuses:
            _status(vehicle, statuses[vehicle_id])
        if vehicle_id in reports:
            _report(vehicle, reports[vehicle_id])
            if vehicle_id in known:
                desired.overtake(known[vehicle_id], reports[vehicle_id])
    levels.overtake(session, {vehicle: reports[vehicle] for vehicle in vehicles.keys() & reports.keys()})
    return ids - set(vehicles)


def _status(vehicle: Vehicle, status: Status) -> None:
    # The will of a session that was taken over may arrive after the new session's own word.
    if not status.online and vehicle.session not in (None, status.session):
        return
    if status.online or vehicle.online:
        vehicle.last_seen = now_utc()
    vehicle.online = status.online
    vehicle.session = status.session
    vehicle.agent_version = status.agent_version or vehicle.agent_version
    vehicle.hardware = status.hardware or vehicle.hardware


def _report(vehicle: Vehicle, report: Reported) -> None:
    vehicle.reported = msgspec.to_builtins(report)
    vehicle.reported_at = vehicle.last_seen = now_utc()
    vehicle.agent_version = report.agent_version
    vehicle.hardware = report.hardware or vehicle.hardware
