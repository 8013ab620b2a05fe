"""The proof that nothing is missing: what vehicles numbered, against what is stored and what is declared lost."""

from dataclasses import dataclass

from sqlalchemy import func, select

from roadloop_cloud.ingest.commit import spans_of
from roadloop_cloud.ingest.ledger import Spans, missing
from roadloop_cloud.store.database import Database
from roadloop_cloud.store.ingest_tables import LedgerStream, LostSamples
from roadloop_cloud.telemetry.read import StreamReader, view_name
from roadloop_models.contract.messages import NOT_SAMPLES


@dataclass(frozen=True)
class StreamAccount:
    """One stream of one boot: every number up to `highest_seq` is stored, lost for a reason, or missing."""

    vehicle: str
    boot: int
    stream: str
    highest_seq: int
    stored: int
    lost: dict[str, int]
    """By reason."""
    missing: Spans
    """In flight, or still in the vehicle's spool."""
    redelivered: int
    """Messages that came again and were told apart; their samples are stored once."""


@dataclass(frozen=True)
class Totals:
    """Samples of the whole fleet; captured items and sketches are not."""

    produced: int
    """The highest number heard of, over all streams."""
    stored: int
    """Different samples found in storage."""
    duplicates: int
    """Samples found in storage more than once."""
    lost: int
    lost_because: dict[str, int]
    """The same by the reason that vehicles gave, the most frequent first."""
    missing: int
    redelivered: int
    bytes_per_sample: float
    """MQTT packets that brought what is stored, TLS not counted, over samples."""


def stream_accounts(database: Database, vehicle: str | None = None) -> list[StreamAccount]:
    """The ledger, for people: per vehicle, boot and stream."""
    with database.reading() as session:
        streams = session.scalars(
            select(LedgerStream).order_by(LedgerStream.vehicle, LedgerStream.boot, LedgerStream.stream)
        ).all()
        key = (LostSamples.vehicle, LostSamples.boot, LostSamples.stream, LostSamples.reason)
        size = func.sum(LostSamples.last_seq - LostSamples.first_seq + 1)
        lost: dict[tuple[str, int, str], dict[str, int]] = {}
        for owner, boot, stream, reason, count in session.execute(select(*key, size).group_by(*key)):
            lost.setdefault((owner, boot, stream), {})[reason] = int(count)
    return [
        StreamAccount(
            vehicle=row.vehicle,
            boot=row.boot,
            stream=row.stream,
            highest_seq=row.highest_seq,
            stored=row.stored,
            lost=lost.get((row.vehicle, row.boot, row.stream), {}),
            missing=missing(spans_of(row), 1, row.highest_seq),
            redelivered=row.redelivered,
        )
        for row in streams
        if vehicle is None or row.vehicle == vehicle
    ]


def totals(database: Database, reader: StreamReader) -> Totals:
    """Counted in storage itself, not taken from the ledger's word; `produced` and `lost` are the ledger's."""
    with database.reading() as session:
        sums = (LedgerStream.highest_seq, LedgerStream.stored, LedgerStream.lost, LedgerStream.stored_bytes)
        row = session.execute(
            select(*(func.coalesce(func.sum(column), 0) for column in (*sums, LedgerStream.redelivered))).where(
                LedgerStream.stream.not_in(NOT_SAMPLES)
            )
        ).one()
        size = func.sum(LostSamples.last_seq - LostSamples.first_seq + 1)
        reasons = session.execute(
            select(LostSamples.reason, size).where(LostSamples.stream.not_in(NOT_SAMPLES)).group_by(LostSamples.reason)
        ).all()
    produced, accounted, lost, stored_bytes, redelivered = (int(value) for value in row)
    stored = duplicates = 0
    for stream in reader.streams():
        counted = reader.query(
            f'SELECT count(*) AS rows, count(DISTINCT (vehicle, boot, seq)) AS samples FROM "{view_name(stream)}"'
        ).to_pylist()[0]
        stored += counted["samples"]
        duplicates += counted["rows"] - counted["samples"]
    return Totals(
        produced=produced,
        stored=stored,
        duplicates=duplicates,
        lost=lost,
        lost_because={reason: int(count) for reason, count in sorted(reasons, key=lambda row: (-row[1], row[0]))},
        missing=produced - stored - lost,
        redelivered=redelivered,
        bytes_per_sample=round(stored_bytes / accounted, 2) if accounted else 0.0,
    )
