"""Levels: states that every vehicle has one of, and which version of each the broker has taken."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from roadloop_cloud.store.campaign_tables import CampaignLevel
from roadloop_cloud.store.fleet_tables import DesiredState
from roadloop_models.contract.messages import Campaigns, Desired

LevelT = TypeVar("LevelT", bound=Desired | Campaigns)


class Levels(Generic[LevelT]):
    """The levels of one channel: rows of a table, whose version rises with every change."""

    def __init__(
        self, table: type[DesiredState] | type[CampaignLevel], level: Callable[[Session, Any], LevelT]
    ) -> None:
        """`level` says what the vehicle of a row is told."""
        self._table = table
        self._level = level

    def unpublished(self, session: Session, at_most: int | None = None) -> list[tuple[str, LevelT]]:
        """Vehicle and level of those whose newest version the broker has not taken yet."""
        table = self._table
        due = select(table).where(table.version > table.published_version).order_by(table.vehicle).limit(at_most)
        rows: list[Any] = list(session.scalars(due))
        return [(row.vehicle, self._level(session, row)) for row in rows]

    def mark_published(self, session: Session, versions: Mapping[str, int]) -> None:
        """The broker has taken these versions: vehicle -> version."""
        if not versions:
            return
        table = self._table.__table__
        statement = (
            update(table)  # type: ignore[arg-type]
            .where(table.c.vehicle == bindparam("key"), table.c.published_version < bindparam("taken"))
            .values(published_version=bindparam("taken"))
        )
        rows = [{"key": vehicle, "taken": version} for vehicle, version in versions.items()]
        session.connection().execute(statement, rows)

    def forget_published(self, session: Session) -> None:
        """The broker may have lost its retained messages: all are published again."""
        session.execute(update(self._table).values(published_version=0))
