"""The spool: every number is held, committed or declared lost, whatever happens."""

import os
import sqlite3
from collections import deque
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from roadloop_agent.link.batcher import CapturedItem, Gap, Intake, SealedBatch
from roadloop_agent.link.spool import LOW_VALUE, NO_BULK_LEFT, TOO_LARGE, Spool
from roadloop_agent.link.value import NOTHING_KNOWN, Worth
from roadloop_models.contract.messages import BlobItem, Cursor, SeqRange, StreamCursor
from roadloop_models.errors import DataError

MIB = 1 << 20
DAY_S = 86_400.0


def sealed(
    first: int,
    last: int,
    stream: str = "road-speed",
    *,
    boot: int = 1,
    size_bytes: int = 500,
    worth: Worth = NOTHING_KNOWN,
) -> SealedBatch:
    return SealedBatch(boot, stream, first, last, os.urandom(size_bytes), worth)


def put(spool: Spool, *intake: Intake, now_s: float = 0.0) -> None:
    waiting = deque(intake)
    spool.append(waiting, now_s)
    assert not waiting


def put_items(spool: Spool, *items: CapturedItem) -> None:
    waiting = deque(items)
    spool.append_items(waiting, 0.0)
    assert not waiting


def cursor(stream: str, prefix: int, *ranges: tuple[int, int], epoch: int = 1, boot: int = 1) -> Cursor:
    spans = tuple(SeqRange(first, last) for first, last in ranges)
    return Cursor(epoch=epoch, streams=(StreamCursor(boot=boot, stream=stream, prefix=prefix, ranges=spans),))


def make(path: Path, max_bytes: int = 64 * MIB, retain_s: float = DAY_S, now_s: float = 0.0) -> Spool:
    return Spool(path / "spool.sqlite", max_bytes, retain_s, now_s)


def item(name: int, size_bytes: int) -> BlobItem:
    return BlobItem(
        sha256=f"{name:064x}",
        size_bytes=size_bytes,
        media_type="image/png",
        task="traffic-sign",
        about_stream="sign-decision",
        about_seq=1,
        t_ms=0,
    )


def test_what_was_appended_is_pending_until_the_cursor_covers_all_of_it(tmp_path: Path) -> None:
    spool = make(tmp_path)
    put(spool, sealed(1, 100), sealed(101, 200), sealed(201, 300))
    first, second, third = spool.pending(10)
    assert [row.first_seq for row in (first, second, third)] == [1, 101, 201]
    assert spool.pending(10, skip={first.id, second.id}) == [third]
    effect = spool.apply_cursor(cursor("road-speed", 150), 1.0)
    assert effect.committed == {first.id}
    effect = spool.apply_cursor(cursor("road-speed", 150, (201, 300)), 2.0)
    assert effect.committed == {third.id}
    assert [row.id for row in spool.pending(10)] == [second.id]


def test_a_cursor_of_another_stream_or_boot_commits_nothing(tmp_path: Path) -> None:
    spool = make(tmp_path)
    put(spool, sealed(1, 100))
    spool.apply_cursor(cursor("health", 100), 1.0)
    spool.apply_cursor(cursor("road-speed", 100, boot=2), 1.0)
    assert len(spool.pending(10)) == 1


def test_a_reopened_spool_has_everything(tmp_path: Path) -> None:
    spool = make(tmp_path)
    put(spool, sealed(1, 10), Gap(1, "road-speed", 11, 12, "pipe-full"), sealed(13, 20))
    spool.close()
    again = make(tmp_path)
    assert [(row.first_seq, row.last_seq) for row in again.pending(10)] == [(1, 10), (13, 20)]
    assert [(gap.first_seq, gap.last_seq, gap.reason) for gap in again.lost()] == [(11, 12, "pipe-full")]
    assert again.known() == {(1, "road-speed"): 20}


def test_committed_rows_are_kept_for_a_while_and_survive_a_restart(tmp_path: Path) -> None:
    spool = make(tmp_path, retain_s=100.0, now_s=50.0)
    put(spool, sealed(1, 10), now_s=50.0)
    spool.apply_cursor(cursor("road-speed", 10), 60.0)
    spool.tend(150.0)
    assert spool.stats().committed_batches == 1
    spool.close()
    # The machine was off: its monotonic clock begins anew, and the age goes on where it was.
    spool = make(tmp_path, retain_s=100.0, now_s=0.0)
    spool.tend(9.0)
    assert spool.stats().committed_batches == 1
    spool.tend(11.0)
    assert spool.stats().committed_batches == 0


def test_a_new_epoch_makes_everything_pending_again(tmp_path: Path) -> None:
    spool = make(tmp_path)
    put(spool, sealed(1, 10), Gap(1, "road-speed", 11, 12, "pipe-full"))
    assert not spool.apply_cursor(cursor("road-speed", 12, epoch=7), 1.0).new_epoch
    assert spool.pending(10) == [] and spool.lost() == []
    assert spool.apply_cursor(cursor("road-speed", 0, epoch=8), 2.0).new_epoch
    assert len(spool.pending(10)) == 1 and len(spool.lost()) == 1


def test_space_is_taken_from_committed_rows_first_and_then_by_value(tmp_path: Path) -> None:
    spool = make(tmp_path, max_bytes=MIB)
    kib = 850
    put(spool, sealed(1, 10, size_bytes=100 * kib, worth=Worth(0.9)))
    spool.apply_cursor(cursor("road-speed", 10), 0.0)
    put(spool, sealed(1, 5, "health", size_bytes=100 * kib, worth=Worth(1.125)))
    put(spool, sealed(11, 20, size_bytes=100 * kib, worth=Worth(0.3)))
    put_items(spool, CapturedItem(1, item(1, 100 * kib), (bytes(60 * kib), bytes(40 * kib)), Worth(0.2)))
    put(spool, sealed(1, 9, "sign-decision", size_bytes=100 * kib, worth=Worth(0.2)))
    put(spool, sealed(10, 10, "sign-decision", size_bytes=100 * kib, worth=Worth(0.4)))
    assert spool.lost() == []
    gone = []
    for index in range(6):
        value = 1.5 if index == 5 else 0.5
        put(spool, sealed(21 + index, 21 + index, size_bytes=100 * kib, worth=Worth(value)))
        gone.append({(gap.stream, gap.first_seq, gap.last_seq) for gap in spool.lost()})
    gone = [later - before for before, later in zip([set(), *gone], gone, strict=False)]
    assert gone[0] == set()  # the committed one made room
    assert gone[1] == {("blob", 1, 2)}  # both blocks of the item, as one range
    assert gone[2] == {("sign-decision", 1, 9)}  # of the same value, and younger
    assert gone[3] == {("road-speed", 11, 20)}
    assert {gap.reason for gap in spool.lost()} == {LOW_VALUE}
    assert spool.stats().disk_bytes <= MIB


def test_what_is_worth_less_than_all_that_is_held_is_given_up_itself(tmp_path: Path) -> None:
    spool = make(tmp_path, max_bytes=MIB)
    for index in range(1, 30):
        put(spool, sealed(index, index, size_bytes=50_000, worth=Worth(0.5)))
    held = [row.first_seq for row in spool.pending(100)]
    assert held[-1] == 29 and held[0] > 1  # of equal value the oldest goes
    put(spool, sealed(30, 39, size_bytes=50_000, worth=Worth(0.4)))
    put_items(spool, CapturedItem(1, item(1, 5), (bytes(50_000),), Worth(0.4)))
    assert [row.first_seq for row in spool.pending(100)] == held
    assert {(gap.stream, gap.first_seq, gap.last_seq, gap.reason) for gap in spool.lost()} == {
        ("road-speed", 1, held[0] - 1, LOW_VALUE),
        ("road-speed", 30, 39, LOW_VALUE),
        ("blob", 1, 1, LOW_VALUE),
    }
    assert spool.known() == {(1, "road-speed"): 39}


def test_health_goes_only_when_no_bulk_is_left(tmp_path: Path) -> None:
    spool = make(tmp_path, max_bytes=MIB)
    for index in range(1, 40):
        put(spool, sealed(index, index, size_bytes=30_000, worth=Worth(0.9)))
        put(spool, sealed(index, index, "health", size_bytes=10_000, worth=Worth(1.125)))
    assert {gap.stream for gap in spool.lost()} == {"road-speed"}
    for index in range(40, 140):
        put(spool, sealed(index, index, "health", size_bytes=10_000, worth=Worth(1.125)))
    put(spool, sealed(1, 1, "summary", size_bytes=10_000, worth=Worth(2.125)))
    reasons = {gap.stream: gap.reason for gap in spool.lost()}
    assert reasons == {"road-speed": LOW_VALUE, "health": NO_BULK_LEFT}
    put(spool, sealed(40, 40, size_bytes=30_000, worth=Worth(0.9)))
    assert {row.stream for row in spool.pending(1000)} == {"health", "summary"}


def test_an_item_that_no_transaction_may_write_is_declared(tmp_path: Path) -> None:
    spool = make(tmp_path, max_bytes=MIB)
    put_items(spool, CapturedItem(1, item(1, 600_000), tuple(bytes(60_000) for _ in range(10))))
    (gap,) = spool.lost()
    assert (gap.stream, gap.first_seq, gap.last_seq, gap.reason) == ("blob", 1, 10, TOO_LARGE)
    put_items(spool, CapturedItem(1, item(2, 10), (b"x",)))
    assert [row.first_seq for row in spool.pending(10)] == [11]


def test_highlights_go_first_and_alone_where_only_they_may_go(tmp_path: Path) -> None:
    spool = make(tmp_path)
    put(spool, sealed(1, 1), sealed(2, 2, worth=Worth(0.9, True)), sealed(3, 3), sealed(4, 4, worth=Worth(0.8, True)))
    assert [row.first_seq for row in spool.pending(10)] == [2, 4, 1, 3]
    assert [row.first_seq for row in spool.pending(10, highlights_only=True)] == [2, 4]
    first = spool.pending(1)[0]
    assert [row.first_seq for row in spool.pending(10, skip={first.id}, highlights_only=True)] == [4]


def test_no_more_islands_are_made_than_the_ledger_takes(tmp_path: Path) -> None:
    """What is sent out of order is an island in the cloud's ledger, which has 1024 for a stream."""
    spool = make(tmp_path)
    put(spool, *(sealed(seq, seq, size_bytes=20, worth=Worth(0.9, True)) for seq in range(1, 400)))
    spool.close()
    spool = make(tmp_path)
    put(spool, *(sealed(seq, seq, size_bytes=20, worth=Worth(0.9, True)) for seq in range(400, 1000)))
    put(spool, sealed(1, 1, "health", worth=Worth(1.1, True)))
    highlights = spool.pending(2000, highlights_only=True)
    assert sum(row.stream == "road-speed" for row in highlights) == 512
    assert sum(row.stream == "health" for row in highlights) == 1


def test_lost_ranges_that_meet_become_one_and_go_when_covered(tmp_path: Path) -> None:
    spool = make(tmp_path)
    put(spool, Gap(1, "health", 1, 2, "pipe-full"), Gap(1, "health", 5, 6, "pipe-full"))
    put(spool, Gap(1, "health", 3, 4, "pipe-full"))
    assert [(gap.first_seq, gap.last_seq) for gap in spool.lost()] == [(1, 6)]
    assert spool.stats().lost_samples == 6
    spool.apply_cursor(cursor("health", 5), 0.0)
    assert len(spool.lost()) == 1
    spool.apply_cursor(cursor("health", 6), 0.0)
    assert spool.lost() == []


def test_blocks_of_captured_items_are_numbered_on_across_restarts(tmp_path: Path) -> None:
    spool = make(tmp_path)
    put_items(spool, CapturedItem(3, item(1, 3), (b"a", b"b", b"c")))
    spool.close()
    spool = make(tmp_path)
    put_items(spool, CapturedItem(3, item(2, 1), (b"d",)))
    assert [(row.first_seq, row.n, row.item) for row in spool.pending(10)] == [
        (1, 0, f"{1:064x}"),
        (2, 1, f"{1:064x}"),
        (3, 2, f"{1:064x}"),
        (4, 0, f"{2:064x}"),
    ]
    assert spool.pending(1)[0].topic("van-1") == f"roadloop/v1/van-1/up/blob/{1:064x}/0"


def test_the_file_grows_to_its_bound_and_shrinks_when_its_rows_have_gone(tmp_path: Path) -> None:
    spool = make(tmp_path, max_bytes=16 * MIB, retain_s=0.0)
    for index in range(400):
        put(spool, sealed(index + 1, index + 1, size_bytes=60_000))
        assert spool.stats().disk_bytes <= 16 * MIB
    assert (tmp_path / "spool.sqlite").stat().st_size > 10 * MIB
    spool.apply_cursor(cursor("road-speed", 400), 1.0)
    steps = 0
    while (tmp_path / "spool.sqlite").stat().st_size > 2 * MIB:
        spool.tend(2.0 + steps)
        steps += 1
        assert steps < 100 and spool.stats().disk_bytes <= 16 * MIB
    assert steps > 3, "a step is a part of it"
    put(spool, sealed(401, 401), now_s=200.0)
    assert [row.first_seq for row in spool.pending(10)] == [401]
    spool.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3 * MIB


def test_a_bound_that_was_lowered_is_reached_step_by_step(tmp_path: Path) -> None:
    spool = make(tmp_path, max_bytes=16 * MIB)
    for index in range(200):
        put(spool, sealed(index + 1, index + 1, size_bytes=60_000, worth=Worth(index / 1000)))
    spool.close()
    spool = make(tmp_path, max_bytes=2 * MIB)
    put(spool, sealed(201, 201, size_bytes=60_000, worth=Worth(0.9)))
    for step in range(400):
        spool.tend(float(step))
        if spool.stats().disk_bytes <= 2 * MIB:
            break
    assert spool.stats().disk_bytes <= 2 * MIB
    held = [row.first_seq for row in spool.pending(1000)]
    assert held == list(range(202 - len(held), 202))  # the most valuable were kept
    (gap,) = spool.lost()
    assert (gap.first_seq, gap.last_seq) == (1, 201 - len(held))


def test_a_spool_of_the_first_schema_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite"
    old = sqlite3.connect(path)
    old.executescript(
        """
        PRAGMA auto_vacuum = INCREMENTAL;
        PRAGMA journal_mode = WAL;
        CREATE TABLE meta (key TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
        CREATE TABLE produced (boot INTEGER NOT NULL, stream TEXT NOT NULL, last_seq INTEGER NOT NULL,
            PRIMARY KEY (boot, stream)) WITHOUT ROWID;
        CREATE TABLE batch (
            id INTEGER PRIMARY KEY AUTOINCREMENT, boot INTEGER NOT NULL, stream TEXT NOT NULL, value INTEGER NOT NULL,
            first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL, item TEXT, n INTEGER, committed_age_s REAL,
            payload BLOB NOT NULL);
        CREATE INDEX batch_pending ON batch (id, stream, first_seq, last_seq) WHERE committed_age_s IS NULL;
        CREATE INDEX batch_value ON batch (value, id) WHERE committed_age_s IS NULL;
        CREATE INDEX batch_committed ON batch (id) WHERE committed_age_s IS NOT NULL;
        CREATE INDEX batch_range ON batch (boot, stream, first_seq);
        CREATE TABLE lost (id INTEGER PRIMARY KEY AUTOINCREMENT, boot INTEGER NOT NULL, stream TEXT NOT NULL,
            first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL, reason TEXT NOT NULL, committed_age_s REAL);
        INSERT INTO produced VALUES (3, 'road-speed', 20), (3, 'health', 9), (3, 'blob', 1);
        INSERT INTO batch (boot, stream, value, first_seq, last_seq, item, n, committed_age_s, payload) VALUES
            (3, 'road-speed', 4, 1, 10, NULL, NULL, 5.0, x'00'), (3, 'road-speed', 4, 11, 20, NULL, NULL, NULL, x'00'),
            (3, 'health', 0, 1, 5, NULL, NULL, NULL, x'00'), (3, 'blob', 1, 1, 1, 'aa', 0, NULL, x'00');
        INSERT INTO lost (boot, stream, first_seq, last_seq, reason) VALUES (3, 'health', 6, 9, 'spool-full');
        """
    )
    old.commit()
    old.close()
    spool = make(tmp_path, max_bytes=2 * MIB)
    assert [(row.stream, row.first_seq) for row in spool.pending(10)] == [
        ("road-speed", 11), ("health", 1), ("blob", 1),
    ]  # fmt: skip
    assert spool.stats().committed_batches == 1 and spool.stats().lost_samples == 4
    spool.close()
    spool = make(tmp_path, max_bytes=2 * MIB)
    for seq in range(21, 80):
        put(spool, sealed(seq, seq, boot=3, size_bytes=50_000, worth=Worth(0.9)))
    assert {(gap.stream, gap.first_seq, gap.reason) for gap in spool.lost()} >= {
        ("road-speed", 11, LOW_VALUE), ("blob", 1, LOW_VALUE), ("health", 6, "spool-full"),
    }  # fmt: skip
    assert ("health", 1) in {(row.stream, row.first_seq) for row in spool.pending(100)}


def test_a_spool_of_a_newer_agent_is_moved_aside_and_named(tmp_path: Path) -> None:
    make(tmp_path).close()
    with sqlite3.connect(tmp_path / "spool.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    spool, error = Spool.open_or_begin(tmp_path / "spool.sqlite", MIB, DAY_S, 0.0)
    assert "newer agent" in str(error) and spool.pending(10) == []


def test_damage_that_is_found_later_condemns_the_file(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite"
    spool = make(tmp_path)
    put(spool, *(sealed(seq, seq, size_bytes=5000) for seq in range(1, 200)))
    assert spool.check(lambda: False) is True
    assert spool.check(lambda: True) is None
    spool.close()
    content = bytearray(path.read_bytes())
    # Pages of rows begin with a 13 in SQLite's format.
    leaves = [start for start in range(8 * 2048, len(content), 2048) if content[start] == 13]
    start = leaves[len(leaves) // 2]
    content[start : start + 64] = os.urandom(64)
    path.write_bytes(content)
    spool = make(tmp_path)  # opening does not read it all
    assert spool.check(lambda: False) is False
    with pytest.raises(DataError, match="damaged"):
        for seq in range(200, 400):
            put(spool, sealed(seq, seq))
            spool.apply_cursor(cursor("road-speed", seq), 0.0)
            spool.pending(1000)
    spool.close()
    with pytest.raises(DataError, match="damaged"):
        make(tmp_path)
    spool, error = Spool.open_or_begin(path, 64 * MIB, DAY_S, 0.0)
    assert "moved to" in str(error) and spool.pending(10) == []
    spool.close()
    spool, error = Spool.open_or_begin(path, 64 * MIB, DAY_S, 0.0)
    assert error is None


def test_a_damaged_file_is_named_and_moved_aside(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(DataError, match=r"spool\.sqlite.*damaged"):
        make(tmp_path)
    spool, error = Spool.open_or_begin(path, MIB, DAY_S, 0.0)
    assert "moved to" in str(error)
    put(spool, sealed(1, 10))
    spool.close()
    assert (tmp_path / "spool.sqlite.damaged").read_bytes().startswith(b"not a database")
    spool, error = Spool.open_or_begin(path, MIB, DAY_S, 0.0)
    assert error is None and len(spool.pending(10)) == 1


def test_a_failed_append_changes_nothing(tmp_path: Path) -> None:
    spool = make(tmp_path)
    put(spool, sealed(1, 10))
    with pytest.raises(sqlite3.ProgrammingError):
        put(spool, sealed(11, 20), SealedBatch(1, "health", 1, 1, [1]))  # type: ignore[arg-type]
    assert spool.known() == {(1, "road-speed"): 10} and spool.stats().pending_batches == 1
    put(spool, sealed(11, 20))
    assert len(spool.pending(10)) == 2


STREAMS = ("health", "sign-decision", "road-speed", "blob")


class SpoolMachine(RuleBasedStateMachine):
    """Random batches, gaps, cursors, epochs and kills against the promise."""

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.spool = make(self.path, max_bytes=MIB, retain_s=20.0)
        self.now_s = 0.0
        self.items = 0
        self.last: dict[str, int] = {}
        self.covered: dict[str, set[int]] = {stream: set() for stream in STREAMS}
        self.epoch = 1

    def teardown(self) -> None:
        self.spool.close()
        self.folder.cleanup()

    @rule(
        stream=st.sampled_from(STREAMS[:3]),
        sizes=st.lists(st.integers(1, 120_000) | st.integers(1, 600), min_size=1, max_size=20),
        value=st.floats(0.01, 1.2),
        gap=st.booleans(),
    )
    def append(self, stream: str, sizes: list[int], value: float, gap: bool) -> None:
        entries: list[Intake] = []
        for index, size in enumerate(sizes):
            first = self.last.get(stream, 0) + 1
            worth = Worth(value * (1 + index % 3) / 3, index % 4 == 0)
            last = first + index % 3
            is_gap = gap and index % 5 == 0
            self.last[stream] = last
            entries.append(
                Gap(1, stream, first, last, "pipe-full")
                if is_gap
                else sealed(first, last, stream, size_bytes=size, worth=worth)
            )
        put(self.spool, *entries, now_s=self.now_s)

    @rule(blocks=st.integers(1, 4), size=st.integers(1, 60_000), value=st.floats(0.01, 1.0))
    def append_item(self, blocks: int, size: int, value: float) -> None:
        self.items += 1
        content = tuple(bytes(size) for _ in range(blocks))
        put_items(self.spool, CapturedItem(1, item(self.items, size * blocks), content, Worth(value)))
        self.last["blob"] = self.last.get("blob", 0) + blocks

    @rule()
    def tend(self) -> None:
        self.spool.tend(self.now_s)

    @rule(stream=st.sampled_from(STREAMS), first=st.integers(1, 30), count=st.integers(1, 20))
    def cover(self, stream: str, first: int, count: int) -> None:
        known = range(1, self.last.get(stream, 0) + 1)
        self.covered[stream].update(seq for seq in range(first, first + count) if seq in known)
        self._publish()

    @rule()
    def new_epoch(self) -> None:
        """The cloud forgot what it had, the newest part of it."""
        self.epoch += 1
        for covered in self.covered.values():
            covered.clear()
        self._publish()

    @rule(seconds=st.floats(0, 15))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def crash(self) -> None:
        """A kill: the file as it is now is all there is."""
        crashed = self.spool
        self.spool = make(self.path, max_bytes=MIB, retain_s=20.0, now_s=0.0)
        self.now_s = 0.0
        crashed.close()

    def _publish(self) -> None:
        streams = []
        for stream, covered in self.covered.items():
            prefix = 0
            while prefix + 1 in covered:
                prefix += 1
            beyond = sorted(seq for seq in covered if seq > prefix)
            runs: list[list[int]] = []
            for seq in beyond:
                if runs and seq == runs[-1][1] + 1:
                    runs[-1][1] = seq
                else:
                    runs.append([seq, seq])
            ranges = tuple(SeqRange(*run) for run in runs)
            streams.append(StreamCursor(boot=1, stream=stream, prefix=prefix, ranges=ranges))
        self.released = getattr(self, "released", {name: set() for name in STREAMS})
        for stream, covered in self.covered.items():
            self.released[stream] |= covered
        self.spool.apply_cursor(Cursor(epoch=self.epoch, streams=tuple(streams)), self.now_s)

    @invariant()
    def every_number_is_held_committed_or_lost(self) -> None:
        if not hasattr(self, "spool"):
            return
        held = {
            (row.stream, seq) for row in self.spool.pending(10_000) for seq in range(row.first_seq, row.last_seq + 1)
        }
        lost = {(gap.stream, seq) for gap in self.spool.lost(10_000) for seq in range(gap.first_seq, gap.last_seq + 1)}
        released = getattr(self, "released", {})
        for stream, last in self.last.items():
            for seq in range(1, last + 1):
                key = (stream, seq)
                assert key in held or key in lost or seq in released.get(stream, ()), key
        stats = self.spool.stats()
        assert stats.disk_bytes <= MIB
        assert stats.pending_samples == sum(stream != "blob" for stream, _ in held)
        assert stats.pending_blocks == sum(stream == "blob" for stream, _ in held)
        assert stats.lost_samples == sum(stream != "blob" for stream, _ in lost)
        whole = self.spool._rows.counted()
        assert self.spool._rows.count == whole
        assert held.isdisjoint(lost)


TestSpoolMachine = SpoolMachine.TestCase
TestSpoolMachine.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 4096), st.binary(min_size=1, max_size=64))
def test_a_torn_log_loses_at_most_its_tail(tmp_path_factory: pytest.TempPathFactory, keep: int, noise: bytes) -> None:
    folder = tmp_path_factory.mktemp("torn")
    spool = make(folder)
    for seq in range(1, 6):
        put(spool, sealed(seq, seq))
    torn = folder / "torn"
    torn.mkdir()
    # What the disk has after a power cut: the main file, and the log up to some byte, then rubbish.
    (torn / "spool.sqlite").write_bytes((folder / "spool.sqlite").read_bytes())
    log = (folder / "spool.sqlite-wal").read_bytes()
    (torn / "spool.sqlite-wal").write_bytes(log[: max(0, len(log) - keep)] + noise)
    spool.close()
    again = make(torn)
    numbers = [row.first_seq for row in again.pending(10)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert again.known().get((1, "road-speed"), 0) == len(numbers)
    again.close()
