"""Which campaigns each vehicle is told to run: a level, whose version rises with every change and never falls behind
the vehicle's own."""

from collections.abc import Iterable, Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from roadloop_cloud.store.campaign_tables import CampaignLevel, CampaignRow, CampaignVehicle
from roadloop_cloud.store.levels import Levels
from roadloop_models.campaigns.campaign import Campaign
from roadloop_models.contract.messages import Campaigns, Reported
from roadloop_models.typed import from_builtins


def changed(session: Session, vehicles: Iterable[str]) -> None:
    """These vehicles are to run something else than before."""
    for vehicle in vehicles:
        row = session.get(CampaignLevel, vehicle)
        if row is None:
            session.add(CampaignLevel(vehicle=vehicle, version=1, published_version=0))
        else:
            row.version += 1


def overtake(session: Session, reports: Mapping[str, Reported]) -> None:
    """Overtake vehicles that know a newer version than this database, which was restored from a backup then."""
    told = {vehicle: report.campaigns.version for vehicle, report in reports.items() if report.campaigns.version}
    rows = {row.vehicle: row for row in session.scalars(select(CampaignLevel).where(CampaignLevel.vehicle.in_(told)))}
    for vehicle, version in told.items():
        row = rows.get(vehicle)
        if row is None:
            session.add(CampaignLevel(vehicle=vehicle, version=version + 1, published_version=0))
        elif version > row.version:
            row.version = version + 1


def _of(session: Session, vehicle: str) -> tuple[Campaign, ...]:
    rows = session.scalars(
        select(CampaignRow)
        .join(CampaignVehicle, CampaignVehicle.name == CampaignRow.name)
        .where(CampaignVehicle.vehicle == vehicle)
        .order_by(CampaignRow.pushed, CampaignRow.name)
    )
    return tuple(from_builtins(row.body, Campaign) for row in rows)


LEVELS = Levels(CampaignLevel, lambda session, row: Campaigns(version=row.version, campaigns=_of(session, row.vehicle)))
