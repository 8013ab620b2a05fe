"""Stored samples: moved once whatever is killed, read whole whatever is moved meanwhile, counted in storage."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError
from sqlalchemy import delete, select

from roadloop_cloud.ingest.blobs import BlobFolder
from roadloop_cloud.ingest.commit import commit_group
from roadloop_cloud.ingest.consumer import decode_item
from roadloop_cloud.store.database import Database
from roadloop_cloud.store.ingest_tables import PendingBatch
from roadloop_cloud.telemetry import delta as delta_module
from roadloop_cloud.telemetry.delta import DeltaFolder
from roadloop_cloud.telemetry.rows import batches_to_table
from roadloop_cloud.telemetry.service import Telemetry
from roadloop_models.contract import channels
from roadloop_models.contract.codec import encode
from roadloop_models.contract.columns import encode_columns
from roadloop_models.contract.messages import TelemetryBatch
from roadloop_models.contract.streams import Field
from roadloop_models.errors import BadInputError, ConfigError, RetryLaterError
from tests.fakes.cloud import batch_message, blob_messages, fresh_database, lost_message


class Killed(BaseException):
    """Stands for SIGKILL: nothing handles it."""


class Store:
    """A database, its Delta tables, and the way in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.database = fresh_database(directory, "van-1", "van-2")
        self.telemetry = Telemetry(self.database, str(directory / "telemetry"))

    def commit(self, *messages: tuple[str, bytes]) -> None:
        items = [decode_item(topic, payload, len(payload)) for topic, payload in messages]
        with self.database.transaction() as session:
            assert not commit_group(session, items, BlobFolder(self.directory / "blobs")).refused

    def seqs(self, stream: str = "health") -> list[int]:
        rows = self.telemetry.read_stream(stream)
        assert rows["seq"].to_pylist() == rows["decisions"].to_pylist()  # as batch_message makes them
        return list(rows["seq"].to_pylist())

    def pending(self) -> int:
        with self.database.reading() as session:
            return len(session.scalars(select(PendingBatch)).all())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_samples_are_the_same_before_and_after_the_move(store: Store) -> None:
    store.commit(batch_message("van-2", 1, 40), batch_message("van-1", 1, 100), batch_message("van-1", 101, 150))
    before = store.telemetry.read_stream("health")
    moved = store.telemetry.move()
    assert (moved.batches, moved.samples) == (3, 190)
    assert store.pending() == 0
    after = store.telemetry.read_stream("health")
    assert after.select(before.column_names).equals(before)
    assert store.telemetry.move().batches == 0
    assert store.telemetry.read_stream("health", vehicles=["van-2"])["seq"].to_pylist() == list(range(1, 41))


def test_what_was_moved_is_read_by_arrow_alone(store: Store) -> None:
    """Arrow's threads let go of a file when they like, also when Python has ended: one of Python's aborts then."""
    store.commit(batch_message("van-1", 1, 10))
    store.telemetry.move()
    version = DeltaFolder(str(store.directory / "telemetry")).read("health", epoch=1)
    assert version is not None and version.rows.count_rows() == 10
    assert isinstance(version.rows.filesystem, pyarrow.fs.SubTreeFileSystem)
    assert isinstance(version.rows.filesystem.base_fs, pyarrow.fs.LocalFileSystem)


def test_reading_joins_what_is_moved_and_what_is_not(store: Store) -> None:
    store.commit(batch_message("van-1", 1, 10))
    store.telemetry.move()
    store.commit(batch_message("van-1", 5, 20))
    assert store.seqs() == list(range(1, 21))


@pytest.mark.parametrize("after_commit", [False, True])
def test_killed_around_the_delta_commit_nothing_is_lost_or_doubled(
    store: Store, monkeypatch: pytest.MonkeyPatch, after_commit: bool
) -> None:
    real = write_deltalake

    def dying(*arguments: Any, **options: Any) -> None:
        if after_commit:
            real(*arguments, **options)
        raise Killed

    store.commit(batch_message("van-1", 1, 10))
    with monkeypatch.context() as patch:
        patch.setattr(delta_module, "write_deltalake", dying)
        with pytest.raises(Killed):
            store.telemetry.move()
    assert store.pending() == 1
    assert store.seqs() == list(range(1, 11))
    store.commit(batch_message("van-1", 11, 15))
    assert store.seqs() == list(range(1, 16))
    store.telemetry.move()
    assert store.pending() == 0
    assert store.seqs() == list(range(1, 16))
    assert store.telemetry.totals().duplicates == 0


def test_reading_while_another_process_moves_sees_each_sample_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.commit(batch_message("van-1", 1, 10))
    real = DeltaFolder.read
    meanwhile: list[Callable[[], object]] = [
        store.telemetry.move,
        lambda: store.commit(batch_message("van-1", 11, 20)),
        store.telemetry.move,
    ]

    def reading(self: DeltaFolder, stream: str, epoch: int) -> Any:
        if meanwhile:  # between the reader's look at the database and its look at the table
            meanwhile.pop(0)()
        return real(self, stream, epoch)

    monkeypatch.setattr(DeltaFolder, "read", reading)
    seen = [store.seqs() for _ in range(4)]
    assert all(seqs in (list(range(1, 11)), list(range(1, 21))) for seqs in seen)
    assert seen[-1] == list(range(1, 21))


def test_two_movers_at_once_store_each_sample_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.commit(batch_message("van-1", 1, 10))
    other = [True]

    def slow(batches: Any) -> pa.Table:
        if other.pop() if other else False:
            store.telemetry.move()  # the other process takes the same move and ends it first
        return batches_to_table(batches)

    monkeypatch.setattr("roadloop_cloud.telemetry.move.batches_to_table", slow)
    store.telemetry.move()
    monkeypatch.undo()
    assert store.seqs() == list(range(1, 11))


def test_a_restored_database_takes_again_what_it_forgot_without_doubling_it(store: Store) -> None:
    store.commit(batch_message("van-1", 1, 10))
    store.telemetry.move()
    backup = store.directory / "backup.sqlite"
    store.database.close()
    backup.write_bytes((store.directory / "state.sqlite").read_bytes())
    store.commit(batch_message("van-1", 11, 20))
    store.telemetry.move()

    store.database.close()
    (store.directory / "state.sqlite").write_bytes(backup.read_bytes())
    epoch = store.telemetry.begin_new_epoch()
    assert store.telemetry.begin_new_epoch() > epoch
    store.commit(batch_message("van-1", 11, 20), batch_message("van-1", 21, 30))  # what the vehicle still held
    store.telemetry.move()
    assert store.seqs() == list(range(1, 31))
    assert store.telemetry.totals().duplicates == 0


def test_a_stream_that_gains_a_field_keeps_its_old_rows(store: Store) -> None:
    def message(first: int, *names: str) -> tuple[str, bytes]:
        columns = encode_columns([Field(name, 0.5) for name in names], [1, 2], [[1.5] * len(names)] * 2)
        batch = TelemetryBatch(boot=1, first_seq=first, last_seq=first + 1, columns=columns)
        return channels.TELEMETRY.topic("van-1", stream="new.stream"), encode(channels.TELEMETRY, batch)

    store.commit(message(1, "a"))
    store.telemetry.move()
    store.commit(message(3, "a", "b"))
    rows = store.telemetry.query("SELECT seq, a, b FROM new_stream ORDER BY seq").to_pylist()
    assert [row["b"] for row in rows] == [None, None, 1.5, 1.5]
    store.telemetry.move()
    assert store.telemetry.query("SELECT seq, a, b FROM new_stream ORDER BY seq").to_pylist() == rows


def test_totals_and_gaps_tell_stored_lost_and_missing_apart(store: Store) -> None:
    store.commit(batch_message("van-1", 1, 10), batch_message("van-1", 31, 40), lost_message("van-1", 11, 15))
    store.commit(batch_message("van-1", 1, 10))
    totals = store.telemetry.totals()
    assert (totals.produced, totals.stored, totals.lost, totals.missing) == (40, 20, 5, 15)
    assert (totals.duplicates, totals.redelivered) == (0, 1)
    sizes = len(batch_message("van-1", 1, 10)[1]) + len(batch_message("van-1", 31, 40)[1])
    assert totals.bytes_per_sample == pytest.approx(sizes / 20)
    (account,) = store.telemetry.gaps("van-1")
    assert account.missing == ((16, 30),)
    assert account.lost == {"spool-full": 5}
    assert store.telemetry.gaps("van-2") == []


def test_losses_are_told_with_what_they_are_because_of(store: Store) -> None:
    store.commit(
        lost_message("van-1", 1, 3, "pipe-full"),
        lost_message("van-1", 4, 10, "spool-full:low-value"),
        lost_message("van-1", 11, 12, "pipe-full"),
        *blob_messages("van-1", b"x" * 10),
    )
    totals = store.telemetry.totals()
    assert list(totals.lost_because.items()) == [("spool-full:low-value", 7), ("pipe-full", 5)]
    assert totals.lost == sum(totals.lost_because.values())
    account = store.telemetry.gaps("van-1")[-1]
    assert account.lost == {"pipe-full": 5, "spool-full:low-value": 7}


def test_a_sample_that_is_stored_twice_is_counted_as_a_duplicate(store: Store) -> None:
    store.commit(batch_message("van-1", 1, 10))
    store.telemetry.move()
    table = DeltaTable(str(store.directory / "telemetry" / "health"))
    write_deltalake(table, table.to_pyarrow_dataset().to_table().slice(0, 3), mode="append", schema_mode="merge")
    totals = store.telemetry.totals()
    assert (totals.stored, totals.duplicates) == (10, 3)


def test_a_sample_that_vanished_from_storage_is_missing_whatever_the_ledger_says(store: Store) -> None:
    store.commit(batch_message("van-1", 1, 10), batch_message("van-1", 11, 20))
    with store.database.transaction() as session:
        session.execute(delete(PendingBatch).where(PendingBatch.first_seq == 1))
    assert store.telemetry.totals().missing == 10


def test_wrong_sql_names_the_streams(store: Store) -> None:
    store.commit(batch_message("van-1", 1, 10))
    with pytest.raises(BadInputError, match="the streams are health"):
        store.telemetry.query("SELECT * FROM wrong")


def test_nothing_stored_reads_as_nothing(store: Store) -> None:
    assert len(store.telemetry.read_stream("health")) == 0
    assert store.telemetry.streams() == []
    assert store.telemetry.totals().bytes_per_sample == 0.0


def test_many_small_files_are_joined(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta_module, "COMPACT_FILES", 3)
    for first in range(1, 51, 10):
        store.commit(batch_message("van-1", first, first + 9))
        store.telemetry.move()
    assert len(DeltaTable(str(store.directory / "telemetry" / "health")).file_uris()) <= 3
    assert store.seqs() == list(range(1, 51))


@pytest.mark.parametrize("there_already", [False, True])
def test_of_two_movers_that_commit_in_the_same_moment_one_finds_it_done(
    store: Store, monkeypatch: pytest.MonkeyPatch, there_already: bool
) -> None:
    if there_already:
        store.commit(batch_message("van-2", 1, 10))
        store.telemetry.move()
    real = write_deltalake
    others = [store.telemetry.move]

    def writing(*arguments: Any, **options: Any) -> None:
        if others:  # both have looked at the table before either of them commits
            others.pop()()
        real(*arguments, **options)

    store.commit(batch_message("van-1", 1, 10))
    monkeypatch.setattr(delta_module, "write_deltalake", writing)
    store.telemetry.move()
    assert not others and store.pending() == 0
    assert store.telemetry.totals().duplicates == 0
    assert len(store.telemetry.read_stream("health", ["van-1"])) == 10


def test_a_storage_that_does_not_answer_is_asked_again_later(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise DeltaError("no answer")

    store.commit(batch_message("van-1", 1, 10))
    monkeypatch.setattr(delta_module, "write_deltalake", failing)
    with pytest.raises(RetryLaterError, match="no answer"):
        store.telemetry.move()
    monkeypatch.undo()
    store.telemetry.move()
    assert store.pending() == 0 and store.seqs() == list(range(1, 11))


def test_the_database_is_checked_before_it_is_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no Roadloop database"):
        Database(f"sqlite:///{tmp_path / 'empty.sqlite'}").check()
    with pytest.raises(ConfigError, match="database"):
        Database("nosuch://x")
