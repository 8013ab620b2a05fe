"""Which vehicles a person means."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from roadloop_cloud.fleet import desired
from roadloop_cloud.store.ingest_tables import Vehicle
from roadloop_models.errors import BadInputError, NotFoundError


@dataclass(frozen=True)
class Chosen:
    """Which vehicles: these ids, those with any of these tags, or all. Of all and of tags only those with the task."""

    vehicles: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    everyone: bool = False


def choose(session: Session, task: str, chosen: Chosen) -> list[Vehicle]:
    """The vehicles. Raises NotFoundError for an unknown id, BadInputError where nobody with a slot of the task is
    chosen."""
    by_id = {vehicle.id: vehicle for vehicle in session.scalars(select(Vehicle).order_by(Vehicle.id))}
    unknown = sorted(set(chosen.vehicles) - set(by_id))
    if unknown:
        raise NotFoundError(f"no vehicle {', '.join(unknown)}; 'roadloop vehicles list' shows those there are")
    able = {key for key, vehicle in by_id.items() if desired.slots_of(session, vehicle, task)}
    unable = sorted(set(chosen.vehicles) - able)
    if unable:
        raise BadInputError(f"vehicle {', '.join(unable)}: has no slot of task {task}, or has never reported")
    meant = {key for key in able if chosen.everyone or set(chosen.tags) & set(by_id[key].tags)}
    keys = sorted(meant | set(chosen.vehicles))
    if not keys:
        raise BadInputError(f"no vehicle with a slot of task {task} is chosen; name some, use a tag, or --all")
    return [by_id[key] for key in keys]
