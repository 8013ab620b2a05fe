"""Sketches in the database: committed with the ledger, read by time."""

from collections.abc import Mapping, Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from roadloop_cloud.drift.cohorts import Member, Told
from roadloop_cloud.store.base import insert_or_ignore
from roadloop_cloud.store.database import now_utc
from roadloop_cloud.store.drift_tables import SketchRow
from roadloop_cloud.store.ingest_tables import Vehicle
from roadloop_models.contract import channels
from roadloop_models.contract.codec import decode, encode
from roadloop_models.contract.messages import Sketch


def keep_sketch(session: Session, vehicle: str, sketch: Sketch) -> None:
    """Store one, once."""
    received = now_utc()
    row = {
        "vehicle": vehicle,
        "boot": sketch.boot,
        "seq": sketch.seq,
        "task": sketch.ref.task,
        "slot": sketch.slot,
        "release": sketch.ref.release,
        "at_ms": min(sketch.to_ms, int(received.timestamp() * 1000)),
        "payload": encode(channels.SKETCH, sketch),
        "received": received,
    }
    insert_or_ignore(session, SketchRow, [row])


def read_sketches(session: Session, from_ms: int, to_ms: int, look_s: float) -> Sequence[Told]:
    """What ended from `from_ms` to before `to_ms`, each with its look."""
    query = select(SketchRow).where(SketchRow.at_ms >= from_ms, SketchRow.at_ms < to_ms).order_by(SketchRow.at_ms)
    return [
        Told(row.vehicle, look_of(row.at_ms, look_s), decode(channels.SKETCH, row.payload, Sketch))
        for row in session.scalars(query)
    ]


def look_of(at_ms: int, look_s: float) -> int:
    """The look that a moment falls in: whole periods since the epoch."""
    return int(at_ms // (look_s * 1000.0))


def read_members(session: Session) -> Mapping[str, Member]:
    """All vehicles."""
    rows = session.execute(select(Vehicle.id, Vehicle.hardware, Vehicle.tags))
    return {vehicle: Member(hardware, tuple(tags)) for vehicle, hardware, tags in rows}


def forget_sketches(session: Session, before_ms: int) -> None:
    """Drop what ended before."""
    session.execute(delete(SketchRow).where(SketchRow.at_ms < before_ms))
