"""What was last heard of the vehicles of a rollout. Reports are decoded once for each time that they change."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from roadloop_cloud.rollout.members import Heard
from roadloop_cloud.store.fleet_tables import RolloutMember
from roadloop_cloud.store.ingest_tables import Vehicle
from roadloop_models.contract.messages import Reported
from roadloop_models.typed import from_builtins

CHUNK = 500
"""How many ids one query names: databases bound their number."""


_Stamp = tuple[datetime | None, bool, datetime | None]
"""When it reported last, whether it is online, when it was seen last."""


def chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """A few hundred at a time."""
    for begin in range(0, len(ids), CHUNK):
        yield ids[begin : begin + CHUNK]


class Hearing:
    """A memory of decoded reports, kept true by the moments at which they were stored."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._known: dict[str, tuple[_Stamp, Heard]] = {}

    def of_rollout(self, session: Session, rollout_id: int) -> dict[str, Heard]:
        """Vehicle -> its last word, of all members."""
        query = (
            select(Vehicle.id, Vehicle.reported_at, Vehicle.online, Vehicle.last_seen)
            .join(RolloutMember, RolloutMember.vehicle == Vehicle.id)
            .where(RolloutMember.rollout_id == rollout_id)
        )
        found: dict[str, Heard] = {}
        stale: dict[str, _Stamp] = {}
        for vehicle, reported_at, online, last_seen in session.execute(query):
            known, stamp = self._known.get(vehicle), (reported_at, online, last_seen)
            if known is not None and known[0] == stamp:
                found[vehicle] = known[1]
            else:
                stale[vehicle] = stamp
        spoke = [vehicle for vehicle, stamp in stale.items() if self._report_changed(vehicle, stamp)]
        reports = _reports(session, spoke)
        for vehicle, stamp in stale.items():
            _, online, last_seen = stamp
            report = reports[vehicle] if vehicle in reports else self._known[vehicle][1].report
            found[vehicle] = Heard(report, online, _seconds(last_seen))
            self._known[vehicle] = (stamp, found[vehicle])
        return found

    def _report_changed(self, vehicle: str, stamp: _Stamp) -> bool:
        known = self._known.get(vehicle)
        return known is None or known[0][0] != stamp[0]


def _reports(session: Session, vehicles: Sequence[str]) -> dict[str, Reported | None]:
    found: dict[str, Reported | None] = {}
    for chunk in chunks(vehicles):
        for vehicle, raw in session.execute(select(Vehicle.id, Vehicle.reported).where(Vehicle.id.in_(chunk))):
            found[vehicle] = None if raw is None else from_builtins(raw, Reported)
    return found


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
