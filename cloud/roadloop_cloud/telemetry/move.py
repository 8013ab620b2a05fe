"""Moves committed raw batches to the Delta tables. Repeatable: a kill at any point loses nothing and doubles nothing.

1. one transaction numbers the move and marks its batches;  2. the rows and the number are committed to Delta together;
3. one transaction deletes the batches. Whoever comes after a kill finds the marked batches and does 2 and 3 again.
"""

from dataclasses import dataclass

from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.orm import Session

from roadloop_cloud.store.database import Database, is_restored, ledger_epoch
from roadloop_cloud.store.ingest_tables import DeltaStream, PendingBatch
from roadloop_cloud.telemetry.delta import DeltaFolder
from roadloop_cloud.telemetry.rows import batches_to_table

MOVE_BATCHES = 2000


@dataclass(frozen=True)
class Moved:
    """What was moved."""

    batches: int = 0
    samples: int = 0


def move_all(database: Database, delta: DeltaFolder) -> Moved:
    """Move whatever is pending now, stream by stream."""
    with database.reading() as session:
        streams = session.scalars(select(PendingBatch.stream).distinct()).all()
    total = Moved()
    for stream in sorted(streams):
        while moved := _move(database, delta, stream):
            total = Moved(total.batches + moved.batches, total.samples + moved.samples)
        delta.compact(stream)
    return total


def _move(database: Database, delta: DeltaFolder, stream: str) -> Moved | None:
    with database.transaction() as session:
        move_id = _begin(session, stream)
    if move_id is None:
        return None
    mine = (PendingBatch.stream == stream, PendingBatch.move_id == move_id)
    with database.reading() as session:
        batches = session.scalars(select(PendingBatch).where(*mine).order_by(PendingBatch.id)).all()
        epoch, restored = ledger_epoch(session), is_restored(session)
    rows = batches_to_table(batches)
    if len(rows):
        delta.append(stream, rows, move_id, epoch, restored=restored)
    with database.transaction() as session:
        session.execute(delete(PendingBatch).where(*mine))
    return Moved(len(batches), len(rows))


def _begin(session: Session, stream: str) -> int | None:
    """The move to do now: the one that was begun, or else a new one over the oldest batches; None: nothing is left."""
    head = session.scalar(select(DeltaStream).where(DeltaStream.stream == stream).with_for_update())
    if head is None:
        head = DeltaStream(stream=stream, move_id=0)
        session.add(head)
    begun = exists().where(PendingBatch.stream == stream, PendingBatch.move_id == head.move_id)
    if session.scalar(select(begun)):
        return head.move_id
    waiting = (PendingBatch.stream == stream, PendingBatch.move_id.is_(None))
    newest = session.scalar(
        select(func.max(PendingBatch.id)).where(
            PendingBatch.id.in_(select(PendingBatch.id).where(*waiting).order_by(PendingBatch.id).limit(MOVE_BATCHES))
        )
    )
    if newest is None:
        return None
    head.move_id += 1
    session.execute(update(PendingBatch).where(*waiting, PendingBatch.id <= newest).values(move_id=head.move_id))
    return head.move_id
