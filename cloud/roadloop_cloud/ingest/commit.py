"""Writes a group of decoded items within one transaction: ledger, raw batches, losses, captured items."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.orm import Session

from roadloop_cloud.drift.sketches import keep_sketch
from roadloop_cloud.ingest import ledger
from roadloop_cloud.ingest.blobs import BlobFolder
from roadloop_cloud.ingest.consumer import Batch, BlobPiece, Item, Losses, SketchItem
from roadloop_cloud.ingest.ledger import Span, Spans
from roadloop_cloud.store.base import insert_or_ignore
from roadloop_cloud.store.database import now_utc
from roadloop_cloud.store.ingest_tables import LedgerStream, LostSamples, PendingBatch, Rejected, Vehicle
from roadloop_models.contract.messages import BLOB_STREAM, SKETCH_STREAM
from roadloop_models.errors import MessageError, NotFoundError, RoadloopError

MAX_SPANS = 1024
"""A cursor carries no more for one stream. What would need more is refused until the vehicle has filled its gaps."""

KEPT_REJECTIONS = 1000

Key = tuple[str, int, str]
"""Vehicle, boot, stream."""


@dataclass(frozen=True)
class Rejection:
    """A message that cannot be taken."""

    topic: str
    size_bytes: int
    error: RoadloopError


@dataclass
class GroupResult:
    """What a group did: vehicles whose cursor is due, and the items that were refused, by their index."""

    touched: set[str] = field(default_factory=set)
    refused: dict[int, RoadloopError] = field(default_factory=dict)


def commit_group(session: Session, items: Sequence[Item], blobs: BlobFolder) -> GroupResult:
    """Write all items. An item that is refused leaves the others alone; database errors are raised."""
    result = GroupResult()
    known = _known_vehicles(session, {item.vehicle for item in items})
    streams = _lock_streams(session, {key for item in items if item.vehicle in known for key in _keys(item)})
    for index, item in enumerate(items):
        try:
            if item.vehicle not in known:
                raise NotFoundError(f"vehicle {item.vehicle} is not of this fleet; 'roadloop vehicles add' makes one")
            result.touched.add(item.vehicle)
            _commit(session, item, streams, blobs)
        except (MessageError, NotFoundError) as error:
            result.refused[index] = error
    return result


def record_rejections(session: Session, rejections: Iterable[Rejection]) -> None:
    """Keep the newest rejections for people to look at."""
    for rejection in rejections:
        row = Rejected(
            received=now_utc(),
            topic=_printable(rejection.topic)[:256],
            size_bytes=rejection.size_bytes,
            code=rejection.error.code,
            detail=_printable(str(rejection.error))[:500],
        )
        session.add(row)
    session.flush()
    newest = session.scalar(select(func.max(Rejected.id))) or 0
    session.execute(delete(Rejected).where(Rejected.id <= newest - KEPT_REJECTIONS))


def spans_of(stream: LedgerStream) -> Spans:
    """What a stream has accounted for, as the ledger's arithmetic takes it."""
    return tuple((first, last) for first, last in stream.accounted)


def _keys(item: Item) -> list[Key]:
    if isinstance(item, Batch):
        return [(item.vehicle, item.boot, item.stream)]
    if isinstance(item, SketchItem):
        return [(item.vehicle, item.sketch.boot, SKETCH_STREAM)]
    if isinstance(item, BlobPiece):
        return [(item.vehicle, item.block.boot, BLOB_STREAM)]
    return [(item.vehicle, entry.boot, entry.stream) for entry in item.ranges]


def _known_vehicles(session: Session, ids: set[str]) -> set[str]:
    return set(session.scalars(select(Vehicle.id).where(Vehicle.id.in_(ids))))


def _lock_streams(session: Session, keys: set[Key]) -> dict[Key, LedgerStream]:
    """The ledger's rows, made where they are new, and locked in one order by all ingest processes."""
    ordered = sorted(keys)
    fresh = {
        "accounted": [],
        "highest_seq": 0,
        "stored": 0,
        "lost": 0,
        "stored_bytes": 0,
        "redelivered": 0,
        "updated": now_utc(),
    }
    insert_or_ignore(
        session,
        LedgerStream,
        [{"vehicle": vehicle, "boot": boot, "stream": stream, **fresh} for vehicle, boot, stream in ordered],
    )
    key = (LedgerStream.vehicle, LedgerStream.boot, LedgerStream.stream)
    rows = session.scalars(select(LedgerStream).where(tuple_(*key).in_(ordered)).order_by(*key).with_for_update())
    return {(row.vehicle, row.boot, row.stream): row for row in rows}


def _commit(session: Session, item: Item, streams: dict[Key, LedgerStream], blobs: BlobFolder) -> None:
    if isinstance(item, Losses):
        for entry, key in zip(item.ranges, _keys(item), strict=True):
            _lose(session, streams[key], entry.first_seq, entry.last_seq, entry.reason)
        return
    stream = streams[_keys(item)[0]]
    if isinstance(item, Batch):
        fresh = _store(session, stream, item.first_seq, item.last_seq, item.packet_bytes)
        for first, last in fresh:
            session.add(_pending(item, first, last))
    elif isinstance(item, SketchItem):
        if _store(session, stream, item.sketch.seq, item.sketch.seq, item.packet_bytes):
            keep_sketch(session, item.vehicle, item.sketch)
    elif _store(session, stream, item.block.seq, item.block.seq, item.packet_bytes):
        blobs.keep(session, item)


def _store(session: Session, stream: LedgerStream, first: int, last: int, packet_bytes: int) -> Spans:
    """Account for samples that are here now; returns which of them were not stored yet."""
    spans = spans_of(stream)
    _account(stream, ledger.add(spans, first, last), last)
    found = _take_back_losses(session, stream, first, last) if stream.lost else ()
    fresh = ledger.add_all(ledger.missing(spans, first, last), found)
    if fresh:
        stream.stored += ledger.count(fresh)
        stream.stored_bytes += packet_bytes
    else:
        stream.redelivered += 1
    return fresh


def _lose(session: Session, stream: LedgerStream, first: int, last: int, reason: str) -> None:
    """Account for samples that will not come. What is stored already stays stored."""
    spans = spans_of(stream)
    gone = ledger.missing(spans, first, last)
    _account(stream, ledger.add(spans, first, last), last)
    stream.lost += ledger.count(gone)
    _record_losses(session, stream, gone, reason)


def _account(stream: LedgerStream, spans: Spans, last: int) -> None:
    if len(spans) > MAX_SPANS:
        raise MessageError(
            f"{stream.vehicle} boot {stream.boot} stream {stream.stream}: more than {MAX_SPANS} gaps; "
            f"send what is missing first"
        )
    stream.accounted = [list(span) for span in spans]
    stream.highest_seq = max(stream.highest_seq, last)
    stream.updated = now_utc()


def _take_back_losses(session: Session, stream: LedgerStream, first: int, last: int) -> Spans:
    """Samples that were declared lost and arrive after all (the broker still held them) are lost no more."""
    overlapping = session.scalars(
        select(LostSamples).where(
            LostSamples.vehicle == stream.vehicle,
            LostSamples.boot == stream.boot,
            LostSamples.stream == stream.stream,
            LostSamples.first_seq <= last,
            LostSamples.last_seq >= first,
        )
    ).all()
    found: list[Span] = []
    for row in overlapping:
        span = (max(row.first_seq, first), min(row.last_seq, last))
        found.append(span)
        rest = ledger.missing((span,), row.first_seq, row.last_seq)
        _record_losses(session, stream, rest, row.reason)
        session.delete(row)
    stream.lost -= ledger.count(tuple(found))
    return tuple(found)


def _record_losses(session: Session, stream: LedgerStream, spans: Spans, reason: str) -> None:
    for first, last in spans:
        session.add(
            LostSamples(
                vehicle=stream.vehicle,
                boot=stream.boot,
                stream=stream.stream,
                first_seq=first,
                last_seq=last,
                reason=reason,
            )
        )


def _pending(batch: Batch, first: int, last: int) -> PendingBatch:
    return PendingBatch(
        vehicle=batch.vehicle,
        boot=batch.boot,
        stream=batch.stream,
        batch_first_seq=batch.first_seq,
        first_seq=first,
        last_seq=last,
        columns=batch.columns,
        received=now_utc(),
        move_id=None,
    )


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
