"""Ingest on a real SQLite database and a transport in memory."""

import hashlib
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import DataError, OperationalError

from roadloop_cloud.ingest.blobs import STALE_AFTER, BlobFolder
from roadloop_cloud.ingest.commit import MAX_SPANS, commit_group
from roadloop_cloud.ingest.consumer import decode_item
from roadloop_cloud.ingest.service import FILTERS, Grouping, IngestService
from roadloop_cloud.store.database import Database
from roadloop_cloud.store.ingest_tables import BlobPart, Capture, LedgerStream, LostSamples, PendingBatch, Rejected
from roadloop_models.contract import channels
from roadloop_models.contract.channels import BLOCK_BYTES
from roadloop_models.contract.codec import encode
from roadloop_models.contract.columns import encode_columns
from roadloop_models.contract.messages import Cursor, SeqRange, StreamCursor, TelemetryBatch
from roadloop_models.contract.streams import Field
from roadloop_models.errors import MessageError
from tests.fakes.cloud import FakeTransport, batch_message, blob_messages, fresh_database, lost_message


class Clock:
    """A clock that the test moves."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Bench:
    """An ingest service with all that it is connected to."""

    def __init__(self, directory: Path, announce_all: bool = False) -> None:
        self.database = fresh_database(directory, "van-1", "van-2")
        self.blobs = directory / "blobs"
        self.clock = Clock()
        self.stop = Event()
        self.restart(announce_all)

    def restart(self, announce_all: bool = False) -> None:
        """A new process on the same database and broker session."""
        self.transport = FakeTransport()
        self.service = IngestService(
            self.transport,
            self.database,
            BlobFolder(self.blobs),
            announce_all=announce_all,
            grouping=Grouping(retry_s=0.0),
            clock=self.clock,
        )

    def take(self, *messages: tuple[str, bytes]) -> None:
        """Deliver messages and let the service work until it has."""
        for topic, payload in messages:
            self.transport.deliver(topic, payload)
        self.turn()

    def turn(self) -> None:
        """One turn, a second later, so that every cursor may be published."""
        self.clock.now_s += 1.0
        self.service.step(self.stop)
        self.service.step(self.stop)

    def cursor(self, vehicle: str = "van-1") -> Cursor:
        """The last cursor published to a vehicle."""
        messages = [entry.message for entry in self.transport.published if entry.vehicle == vehicle]
        assert isinstance(messages[-1], Cursor)
        return messages[-1]

    def rows(self, table: Any) -> list[Any]:
        """All rows of a table."""
        with self.database.reading() as session:
            return list(session.scalars(select(table)))

    def stored(self) -> list[int]:
        """Sequence numbers in the raw batches, in the order of arrival."""
        return [seq for row in self.rows(PendingBatch) for seq in range(row.first_seq, row.last_seq + 1)]

    def ledger(self) -> LedgerStream:
        """The one stream that there is."""
        (row,) = self.rows(LedgerStream)
        assert isinstance(row, LedgerStream)
        return row


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_batch_is_committed_acknowledged_and_covered_by_the_cursor(bench: Bench) -> None:
    bench.take(batch_message("van-1", 1, 100))
    assert bench.transport.filters == list(FILTERS)
    assert bench.transport.acknowledged == [1]
    assert bench.stored() == list(range(1, 101))
    (stream,) = bench.cursor().streams
    assert (stream.boot, stream.stream, stream.prefix, stream.ranges) == (1, "health", 100, ())


def test_a_batch_that_comes_twice_is_stored_once(bench: Bench) -> None:
    bench.take(batch_message("van-1", 1, 100))
    bench.take(batch_message("van-1", 1, 100), batch_message("van-1", 1, 100))
    assert bench.stored() == list(range(1, 101))
    assert (bench.ledger().stored, bench.ledger().redelivered) == (100, 2)
    assert bench.transport.acknowledged == [1, 2, 3]
    assert bench.cursor().streams[0].prefix == 100


def test_of_an_overlapping_batch_only_the_fresh_samples_are_kept(bench: Bench) -> None:
    bench.take(batch_message("van-1", 11, 20))
    bench.take(batch_message("van-1", 1, 30))
    assert sorted(bench.stored()) == list(range(1, 31))
    assert bench.cursor().streams[0].prefix == 30


def test_a_gap_shows_in_the_cursor_until_it_is_filled(bench: Bench) -> None:
    bench.take(batch_message("van-1", 1, 10), batch_message("van-1", 21, 30))
    assert bench.cursor().streams[0].prefix == 10
    assert bench.cursor().streams[0].ranges == (SeqRange(21, 30),)
    bench.take(lost_message("van-1", 11, 20))
    assert bench.cursor().streams[0].prefix == 30
    (lost,) = bench.rows(LostSamples)
    assert (lost.first_seq, lost.last_seq, lost.reason) == (11, 20, "spool-full")
    assert (bench.ledger().stored, bench.ledger().lost) == (20, 10)


def test_a_repeated_loss_counts_once(bench: Bench) -> None:
    bench.take(lost_message("van-1", 1, 10), lost_message("van-1", 1, 10), lost_message("van-1", 5, 12))
    assert bench.ledger().lost == 12
    assert sum(row.last_seq - row.first_seq + 1 for row in bench.rows(LostSamples)) == 12


def test_what_is_stored_cannot_be_declared_lost(bench: Bench) -> None:
    bench.take(batch_message("van-1", 1, 10))
    bench.take(lost_message("van-1", 1, 15))
    assert (bench.ledger().stored, bench.ledger().lost) == (10, 5)


def test_what_was_lost_and_arrives_after_all_is_lost_no_more(bench: Bench) -> None:
    bench.take(lost_message("van-1", 1, 30))
    bench.take(batch_message("van-1", 11, 20))
    bench.take(batch_message("van-1", 11, 20))
    assert bench.stored() == list(range(11, 21))
    assert (bench.ledger().stored, bench.ledger().lost) == (10, 20)
    assert sorted((row.first_seq, row.last_seq) for row in bench.rows(LostSamples)) == [(1, 10), (21, 30)]


def test_killed_between_commit_and_acknowledgement_nothing_doubles(bench: Bench) -> None:
    class Killed(BaseException):
        pass

    def die(received: object) -> None:
        raise Killed

    bench.transport.acknowledge = die  # type: ignore[method-assign]
    with pytest.raises(Killed):
        bench.take(batch_message("van-1", 1, 50))
    bench.restart()
    bench.take(batch_message("van-1", 1, 50))
    assert bench.stored() == list(range(1, 51))
    assert bench.transport.acknowledged == [1]
    assert bench.cursor().streams[0].prefix == 50


def test_while_the_database_does_not_answer_nothing_is_acknowledged(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = 3
    real = Database.transaction

    def failing(self: Database) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            assert bench.transport.acknowledged == []
            raise OperationalError("BEGIN", None, Exception("database or disk is full"))
        return real(self)

    monkeypatch.setattr(Database, "transaction", failing)
    bench.take(batch_message("van-1", 1, 10))
    assert failures == 0
    assert bench.stored() == list(range(1, 11))
    assert bench.transport.acknowledged == [1]


def test_stopped_while_the_database_is_away_leaves_the_messages_to_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Database) -> Any:
        bench.stop.set()
        raise OperationalError("BEGIN", None, Exception("no"))

    with monkeypatch.context() as patch:
        patch.setattr(Database, "transaction", failing)
        bench.take(batch_message("van-1", 1, 10))
    assert bench.transport.acknowledged == []
    assert bench.transport.redeliver() == 1
    bench.stop.clear()
    bench.turn()
    assert bench.stored() == list(range(1, 11))


def test_one_message_that_the_database_refuses_does_not_hold_up_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:

    def refusing(session: Any, items: Any, blobs: Any) -> Any:
        if any(item.vehicle == "van-2" for item in items):
            raise DataError("INSERT", None, Exception("a NUL in a text"))
        return commit_group(session, items, blobs)

    monkeypatch.setattr("roadloop_cloud.ingest.service.commit_group", refusing)
    bench.take(batch_message("van-1", 1, 10), batch_message("van-2", 1, 10), batch_message("van-1", 11, 20))
    assert bench.stored() == list(range(1, 21))
    assert bench.transport.acknowledged == [1, 2, 3]
    assert [row.code for row in bench.rows(Rejected)] == ["message-invalid"]


def test_malformed_and_foreign_messages_are_acknowledged_and_recorded(bench: Bench) -> None:
    topic, payload = batch_message("van-1", 1, 10)
    bench.take(
        (topic, b"\xc1 no MessagePack"),
        (topic, payload[:-3]),
        (topic, b"\x00" * (channels.MAX_MESSAGE_BYTES + 1)),
        ("roadloop/v1/van-1/up/t/UPPER", payload),
        ("roadloop/v1/van-1/up/status", b"{}"),
        batch_message("stranger", 1, 10),
        (topic, payload),
    )
    assert bench.transport.acknowledged == [1, 2, 3, 4, 5, 6, 7]
    assert bench.stored() == list(range(1, 11))
    rejected = bench.rows(Rejected)
    assert sorted(row.code for row in rejected) == ["message-invalid"] * 5 + ["not-found"]
    assert bench.service.counters.rejected == 6
    assert all(entry.vehicle == "van-1" for entry in bench.transport.published)


def test_a_flood_of_rejections_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadloop_cloud.ingest.commit.KEPT_REJECTIONS", 20)
    for _ in range(3):
        bench.take(*[("roadloop/v1/van-1/up/nothing", b"")] * 15)
    assert bench.service.counters.rejected == 45
    assert [row.id for row in bench.rows(Rejected)] == list(range(26, 46))


def test_more_gaps_than_a_cursor_can_carry_are_refused_and_can_be_filled(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roadloop_cloud.ingest.commit.MAX_SPANS", 20)
    bench.take(*(batch_message("van-1", seq, seq) for seq in range(2, 44, 2)))
    bench.turn()
    assert bench.stored() == list(range(2, 42, 2))
    assert [row.code for row in bench.rows(Rejected)] == ["message-invalid"]
    assert len(bench.cursor().streams[0].ranges) == 20
    bench.take(batch_message("van-1", 1, 42))
    assert bench.cursor().streams[0].prefix == 42
    assert sorted(bench.stored()) == list(range(1, 43))


def test_as_many_gaps_as_are_kept_fit_one_cursor() -> None:
    far = (1 << 53) - 1
    ranges = tuple(SeqRange(far - 2 * n - 1, far - 2 * n) for n in range(MAX_SPANS))
    stream = StreamCursor(boot=far, stream="x" * 40, prefix=far, ranges=ranges)
    assert len(encode(channels.CURSOR, Cursor(epoch=far, streams=(stream,)))) < channels.CURSOR.max_bytes


def test_cursors_wait_while_the_broker_is_away_and_tell_the_newest(bench: Bench) -> None:
    bench.transport.connected = False
    bench.take(batch_message("van-1", 1, 10))
    bench.take(batch_message("van-1", 11, 20))
    assert bench.transport.published == []
    bench.transport.connected = True
    bench.turn()
    assert [entry.vehicle for entry in bench.transport.published] == ["van-1"]
    assert bench.cursor().streams[0].prefix == 20


def test_after_a_start_every_vehicle_hears_its_cursor_again(bench: Bench) -> None:
    bench.take(batch_message("van-1", 1, 10), batch_message("van-2", 1, 5))
    bench.restart(announce_all=True)
    bench.turn()
    assert {entry.vehicle for entry in bench.transport.published} == {"van-1", "van-2"}
    assert bench.cursor("van-2").streams[0].prefix == 5


def test_a_captured_item_is_whole_on_disk_when_its_last_block_came(bench: Bench) -> None:
    content = bytes(range(256)) * 700  # 3 blocks
    sha256 = hashlib.sha256(content).hexdigest()
    first, second, third = blob_messages("van-1", content)
    path = bench.blobs / sha256[:2] / sha256
    bench.take(third, first)
    assert not path.exists()
    assert len(bench.rows(BlobPart)) == 2
    bench.take(third, second, second)
    assert path.read_bytes() == content
    assert bench.rows(BlobPart) == []
    (capture,) = bench.rows(Capture)
    assert (capture.vehicle, capture.sha256, capture.task, capture.about_seq) == ("van-1", sha256, "traffic-sign", 1)
    assert bench.cursor().streams[0].prefix == 3
    assert list(path.parent.iterdir()) == [path]


def test_the_same_item_from_another_vehicle_is_recorded_without_storing_it_again(bench: Bench) -> None:
    content = b"image"
    bench.take(*blob_messages("van-1", content), *blob_messages("van-2", content))
    assert {row.vehicle for row in bench.rows(Capture)} == {"van-1", "van-2"}


def test_blocks_of_another_hash_are_dropped_and_not_asked_for_again(bench: Bench) -> None:
    bench.take(*blob_messages("van-1", b"x" * (BLOCK_BYTES + 1), claimed="0" * 64))
    assert bench.rows(Capture) == []
    assert bench.rows(BlobPart) == []
    assert [row.code for row in bench.rows(Rejected)] == ["message-invalid"]
    assert not [path for path in bench.blobs.rglob("*") if path.is_file()]
    assert bench.cursor().streams[0].prefix == 2


def test_blocks_that_wait_for_lost_ones_are_dropped_after_a_month(bench: Bench) -> None:
    first, *_ = blob_messages("van-1", b"x" * (BLOCK_BYTES + 1))
    bench.take(first)
    folder = BlobFolder(bench.blobs)
    with bench.database.transaction() as session:
        folder.discard_stale(session)
    (part,) = bench.rows(BlobPart)
    with bench.database.transaction() as session:
        session.merge(part).received -= STALE_AFTER + timedelta(minutes=1)
        session.flush()
        folder.discard_stale(session)
    assert bench.rows(BlobPart) == []


def _columns(*names: str, rows: int = 2) -> bytes:
    return encode_columns([Field(name, 1.0) for name in names], [0] * rows, [[1.0] * len(names)] * rows)


@pytest.mark.parametrize(
    ("batch", "stream", "expected"),
    [
        (TelemetryBatch(boot=1, first_seq=1, last_seq=3, columns=_columns("a")), "health", "samples 1..3 are 3"),
        (TelemetryBatch(boot=1, first_seq=3, last_seq=1, columns=_columns("a")), "health", "are -1"),
        (TelemetryBatch(boot=1, first_seq=1, last_seq=2, columns=_columns("a")), "blob", "carries no samples"),
        (TelemetryBatch(boot=1, first_seq=1, last_seq=2, columns=_columns("seq")), "health", "'seq' cannot be"),
        (TelemetryBatch(boot=1, first_seq=1, last_seq=2, columns=_columns("a b")), "health", "'a b' cannot be"),
        (TelemetryBatch(boot=1, first_seq=1, last_seq=2, columns=_columns("a", "a")), "health", "comes twice"),
        (TelemetryBatch(boot=1, first_seq=1, last_seq=2, columns=b""), "health", "columns"),
    ],
)
def test_a_batch_that_contradicts_itself_is_refused(batch: TelemetryBatch, stream: str, expected: str) -> None:
    with pytest.raises(MessageError, match=expected):
        decode_item(channels.TELEMETRY.topic("van-1", stream=stream), encode(channels.TELEMETRY, batch), 0)


def test_a_block_of_the_wrong_size_or_place_is_refused() -> None:
    _, payload = blob_messages("van-1", b"x" * 10)[0]
    sha256 = hashlib.sha256(b"x" * 10).hexdigest()
    with pytest.raises(MessageError, match="block 1 of 1"):
        decode_item(channels.BLOB.topic("van-1", sha256=sha256, n=1), payload, 0)
    with pytest.raises(MessageError, match="the message is about"):
        decode_item(channels.BLOB.topic("van-1", sha256="1" * 64, n=0), payload, 0)
