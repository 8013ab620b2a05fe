"""Campaigns, as a person pushes and stops them, and what they brought."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from roadloop_cloud.campaigns import levels
from roadloop_cloud.fleet.choosing import Chosen, choose
from roadloop_cloud.fleet.desired import reported_of
from roadloop_cloud.store.campaign_tables import CampaignLevel, CampaignRow, CampaignVehicle
from roadloop_cloud.store.database import Database, now_utc
from roadloop_cloud.store.ingest_tables import Capture, Vehicle
from roadloop_models.campaigns.campaign import MAX_CAMPAIGNS, Campaign, understand
from roadloop_models.contract.messages import ErrorInfo
from roadloop_models.errors import ConflictError, NotFoundError
from roadloop_models.typed import from_builtins


@dataclass(frozen=True)
class OnVehicle:
    """A campaign on one vehicle."""

    vehicle: str
    active: bool
    """It is to run there."""
    runs: bool
    """The vehicle has said that it knows of it."""
    error: ErrorInfo | None
    """What the vehicle does not understand of its campaigns."""
    items: int
    size_bytes: int
    last: datetime | None
    """When its newest item came."""


@dataclass(frozen=True)
class Pushed:
    """A campaign that was pushed."""

    campaign: Campaign
    pushed: datetime
    vehicles: tuple[OnVehicle, ...]

    @property
    def active(self) -> int:
        """On how many vehicles it is to run."""
        return sum(one.active for one in self.vehicles)


class CampaignService:
    """Application service on the tables of campaigns and on what was captured."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def push(self, campaign: Campaign, chosen: Chosen) -> list[str]:
        """Have vehicles run a campaign, beside those that they run; the vehicles that did not run it before.

        Raises ConfigError (the campaign), NotFoundError, BadInputError (nobody is chosen), ConflictError where the name
        was given to another campaign, or a vehicle runs as many as it may.
        """
        understand(campaign, f"campaign {campaign.name}")
        body = msgspec.to_builtins(campaign)
        with self._database.transaction() as session:
            row = session.get(CampaignRow, campaign.name)
            if row is not None and from_builtins(row.body, Campaign) != campaign:
                raise ConflictError(
                    f"campaign {campaign.name} was pushed before and is another one: what it brought is kept under "
                    "its name; use a new name"
                )
            vehicles = [vehicle.id for vehicle in choose(session, campaign.task, chosen)]
            if row is None:
                session.add(CampaignRow(name=campaign.name, task=campaign.task, body=body, pushed=now_utc()))
                session.flush()
            running = _running(session, campaign.name)
            added = [vehicle for vehicle in vehicles if vehicle not in running]
            for vehicle in added:
                _refuse_too_many(session, vehicle)
                session.add(CampaignVehicle(name=campaign.name, vehicle=vehicle))
            levels.changed(session, added)
        return added

    def stop(self, name: str) -> list[str]:
        """Have no vehicle run it any more; those that did. Raises NotFoundError."""
        with self._database.transaction() as session:
            _get(session, name)
            running = sorted(_running(session, name))
            session.execute(delete(CampaignVehicle).where(CampaignVehicle.name == name))
            levels.changed(session, running)
        return running

    def show(self, name: str) -> Pushed:
        """One campaign. Raises NotFoundError."""
        with self._database.reading() as session:
            return _pushed(session, _get(session, name))

    def list(self) -> Sequence[Pushed]:
        """All that were pushed, the newest first."""
        with self._database.reading() as session:
            rows = session.scalars(select(CampaignRow).order_by(CampaignRow.pushed.desc(), CampaignRow.name))
            return [_pushed(session, row) for row in rows]


def _get(session: Session, name: str) -> CampaignRow:
    row = session.get(CampaignRow, name)
    if row is None:
        raise NotFoundError(f"no campaign {name}; 'roadloop campaign list' shows those there are")
    return row


def _running(session: Session, name: str) -> set[str]:
    return set(session.scalars(select(CampaignVehicle.vehicle).where(CampaignVehicle.name == name)))


def _refuse_too_many(session: Session, vehicle: str) -> None:
    rows = select(func.count()).select_from(CampaignVehicle).where(CampaignVehicle.vehicle == vehicle)
    count = session.scalar(rows) or 0
    if count >= MAX_CAMPAIGNS:
        raise ConflictError(f"vehicle {vehicle} runs {count} campaigns, as many as it may; stop one first")


def _pushed(session: Session, row: CampaignRow) -> Pushed:
    running = _running(session, row.name)
    brought = {
        vehicle: (items, size_bytes, last)
        for vehicle, items, size_bytes, last in session.execute(
            select(
                Capture.vehicle,
                func.count(func.distinct(Capture.sha256)),
                func.sum(Capture.size_bytes),
                func.max(Capture.received),
            )
            .where(Capture.campaign == row.name)
            .group_by(Capture.vehicle)
        )
    }
    vehicles = []
    for vehicle in sorted(running | brought.keys()):
        level, report = session.get(CampaignLevel, vehicle), reported_of(session.get_one(Vehicle, vehicle))
        items, size_bytes, last = brought.get(vehicle, (0, 0, None))
        known = report is not None and level is not None and report.campaigns.version >= level.version
        vehicles.append(
            OnVehicle(
                vehicle=vehicle,
                active=vehicle in running,
                runs=known and vehicle in running,
                error=None if report is None else report.campaigns.error,
                items=items,
                size_bytes=int(size_bytes or 0),
                last=last,
            )
        )
    return Pushed(from_builtins(row.body, Campaign), row.pushed, tuple(vehicles))
