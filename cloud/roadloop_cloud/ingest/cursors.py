"""Cursors: what the cloud tells a vehicle about its commitment, built from the ledger and published retained."""

from collections.abc import Iterable, Sequence
from datetime import timedelta

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from roadloop_cloud.ingest.ledger import prefix_and_rest
from roadloop_cloud.mqtt import Transport
from roadloop_cloud.store.database import Database, ledger_epoch, now_utc
from roadloop_cloud.store.ingest_tables import LedgerStream
from roadloop_models.contract import channels
from roadloop_models.contract.messages import Cursor, SeqRange, StreamCursor
from roadloop_models.errors import RetryLaterError

RECENT = timedelta(hours=24)
_MAX_STREAMS = 1024
_MAX_BODY_BYTES = channels.CURSOR.max_bytes - 1024


def build_cursors(session: Session, vehicles: Sequence[str]) -> dict[str, Cursor]:
    """The cursor of each vehicle: its streams of the last 24 hours, the newest first, as many as one message holds.

    A stream that is left out claims nothing; the vehicle sends it again, and so it becomes the newest.
    """
    table = LedgerStream.__table__.c
    rows = session.execute(
        select(table.vehicle, table.boot, table.stream, table.accounted)
        .where(table.vehicle.in_(vehicles), table.updated >= now_utc() - RECENT)
        .order_by(table.updated.desc(), table.boot.desc(), table.stream)
    )
    epoch = ledger_epoch(session)
    streams: dict[str, list[StreamCursor]] = {vehicle: [] for vehicle in vehicles}
    sizes_bytes = dict.fromkeys(vehicles, 0)
    for vehicle, boot, stream, accounted in rows:
        prefix, rest = prefix_and_rest(tuple((first, last) for first, last in accounted))
        ranges = tuple(SeqRange(*span) for span in rest[:1024])
        cursor = StreamCursor(boot=boot, stream=stream, prefix=prefix, ranges=ranges)
        sizes_bytes[vehicle] += len(msgspec.json.encode(cursor)) + 1
        if sizes_bytes[vehicle] <= _MAX_BODY_BYTES and len(streams[vehicle]) < _MAX_STREAMS:
            streams[vehicle].append(cursor)
    return {vehicle: Cursor(epoch=epoch, streams=tuple(found)) for vehicle, found in streams.items()}


class CursorPublisher:
    """Publishes the cursor of touched vehicles, each at most once in `interval_s`, always as the ledger is then."""

    def __init__(self, database: Database, transport: Transport, interval_s: float = 0.5) -> None:
        """Nothing is due yet."""
        self._database = database
        self._transport = transport
        self._interval_s = interval_s
        self._due: dict[str, float] = {}
        self._published_s: dict[str, float] = {}

    def touch(self, vehicles: Iterable[str], now_s: float) -> None:
        """These vehicles' ledgers changed, or were asked after."""
        for vehicle in vehicles:
            earliest_s = self._published_s.get(vehicle, now_s - self._interval_s) + self._interval_s
            self._due.setdefault(vehicle, max(now_s, earliest_s))

    def touch_all(self, now_s: float) -> None:
        """Every vehicle that ever sent something: after a start, because the broker may have forgotten."""
        with self._database.reading() as session:
            self.touch(session.scalars(select(LedgerStream.vehicle).distinct()), now_s)

    def wait_s(self, now_s: float) -> float | None:
        """How long until the next cursor is due, or None where none is."""
        return max(0.0, min(self._due.values()) - now_s) if self._due else None

    def publish_due(self, now_s: float, at_most: int = 100) -> None:
        """Publish what is due. While the broker is away it stays due."""
        ready = [vehicle for vehicle, due_s in self._due.items() if due_s <= now_s][:at_most]
        if not ready or not self._transport.connected:
            return
        with self._database.reading() as session:
            cursors = build_cursors(session, ready)
        for vehicle, cursor in cursors.items():
            try:
                self._transport.publish(channels.CURSOR, vehicle, cursor)
            except RetryLaterError:
                return
            del self._due[vehicle]
            self._published_s[vehicle] = now_s
