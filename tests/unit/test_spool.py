"""The spool: every number is held, committed or declared lost, whatever happens."""

import os
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from roadloop_agent.link.batcher import CapturedItem, Gap, SealedBatch
from roadloop_agent.link.spool import Spool
from roadloop_models.contract.messages import BlobItem, Cursor, SeqRange, StreamCursor
from roadloop_models.errors import DataError

MIB = 1 << 20
DAY_S = 86_400.0


def sealed(first: int, last: int, stream: str = "road-speed", boot: int = 1, size_bytes: int = 500) -> SealedBatch:
    return SealedBatch(boot, stream, first, last, os.urandom(size_bytes))


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
    spool.append([sealed(1, 100), sealed(101, 200), sealed(201, 300)], 0.0)
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
    spool.append([sealed(1, 100)], 0.0)
    spool.apply_cursor(cursor("health", 100), 1.0)
    spool.apply_cursor(cursor("road-speed", 100, boot=2), 1.0)
    assert len(spool.pending(10)) == 1


def test_a_reopened_spool_has_everything(tmp_path: Path) -> None:
    spool = make(tmp_path)
    spool.append([sealed(1, 10), Gap(1, "road-speed", 11, 12, "pipe-full"), sealed(13, 20)], 0.0)
    spool.close()
    again = make(tmp_path)
    assert [(row.first_seq, row.last_seq) for row in again.pending(10)] == [(1, 10), (13, 20)]
    assert [(gap.first_seq, gap.last_seq, gap.reason) for gap in again.lost()] == [(11, 12, "pipe-full")]
    assert again.known() == {(1, "road-speed"): 20}


def test_committed_rows_are_kept_for_a_while_and_survive_a_restart(tmp_path: Path) -> None:
    spool = make(tmp_path, retain_s=100.0, now_s=50.0)
    spool.append([sealed(1, 10)], 50.0)
    spool.apply_cursor(cursor("road-speed", 10), 60.0)
    spool.apply_cursor(cursor("road-speed", 10), 150.0)
    assert spool.stats().committed_batches == 1
    spool.close()
    # The machine was off: its monotonic clock begins anew, and the age goes on where it was.
    spool = make(tmp_path, retain_s=100.0, now_s=0.0)
    spool.append([sealed(11, 20)], 9.0)
    assert spool.stats().committed_batches == 1
    spool.append([sealed(21, 30)], 11.0)
    assert spool.stats().committed_batches == 0


def test_a_new_epoch_makes_everything_pending_again(tmp_path: Path) -> None:
    spool = make(tmp_path)
    spool.append([sealed(1, 10), Gap(1, "road-speed", 11, 12, "pipe-full")], 0.0)
    assert not spool.apply_cursor(cursor("road-speed", 12, epoch=7), 1.0).new_epoch
    assert spool.pending(10) == [] and spool.lost() == []
    assert spool.apply_cursor(cursor("road-speed", 0, epoch=8), 2.0).new_epoch
    assert len(spool.pending(10)) == 1 and len(spool.lost()) == 1


def test_space_is_taken_from_committed_rows_first_and_then_by_value(tmp_path: Path) -> None:
    spool = make(tmp_path, max_bytes=MIB)
    spool.append([sealed(1, 10, "road-speed", size_bytes=200_000)], 0.0)
    spool.apply_cursor(cursor("road-speed", 10), 0.0)
    spool.append([sealed(11, 20, "road-speed", size_bytes=200_000)], 0.0)
    spool.append([sealed(1, 5, "health", size_bytes=200_000)], 0.0)
    spool.append_items([CapturedItem(1, item(1, 100_000), (bytes(60_000), bytes(40_000)))], 0.0)
    spool.append([sealed(1, 9, "sign-decision", size_bytes=200_000)], 0.0)
    assert spool.lost() == []
    gone = []
    for index in range(4):
        spool.append([sealed(21 + index, 21 + index, "road-speed", size_bytes=200_000)], 0.0)
        gone.append([(gap.stream, gap.first_seq, gap.last_seq) for gap in spool.lost()])
    assert gone[0] == []  # the committed one made room
    assert ("health", 1, 5) in gone[1]
    assert ("blob", 1, 2) in gone[2]  # both blocks of the item, as one range
    assert ("sign-decision", 1, 9) in gone[3]
    assert all(gap.reason == "spool-full" for gap in spool.lost())
    assert spool.stats().used_bytes <= MIB


def test_lost_ranges_that_meet_become_one_and_go_when_covered(tmp_path: Path) -> None:
    spool = make(tmp_path)
    spool.append([Gap(1, "health", 1, 2, "pipe-full"), Gap(1, "health", 5, 6, "pipe-full")], 0.0)
    spool.append([Gap(1, "health", 3, 4, "pipe-full")], 0.0)
    assert [(gap.first_seq, gap.last_seq) for gap in spool.lost()] == [(1, 6)]
    assert spool.stats().lost_samples == 6
    spool.apply_cursor(cursor("health", 5), 0.0)
    assert len(spool.lost()) == 1
    spool.apply_cursor(cursor("health", 6), 0.0)
    assert spool.lost() == []


def test_blocks_of_captured_items_are_numbered_on_across_restarts(tmp_path: Path) -> None:
    spool = make(tmp_path)
    spool.append_items([CapturedItem(3, item(1, 3), (b"a", b"b", b"c"))], 0.0)
    spool.close()
    spool = make(tmp_path)
    spool.append_items([CapturedItem(3, item(2, 1), (b"d",))], 0.0)
    assert [(row.first_seq, row.n, row.item) for row in spool.pending(10)] == [
        (1, 0, f"{1:064x}"),
        (2, 1, f"{1:064x}"),
        (3, 2, f"{1:064x}"),
        (4, 0, f"{2:064x}"),
    ]
    assert spool.pending(1)[0].topic("van-1") == f"roadloop/v1/van-1/up/blob/{1:064x}/0"


def test_the_file_shrinks_when_its_rows_have_gone(tmp_path: Path) -> None:
    spool = make(tmp_path, retain_s=0.0)
    for index in range(40):
        spool.append([sealed(index + 1, index + 1, size_bytes=200_000)], 0.0)
    spool.apply_cursor(cursor("road-speed", 40), 1.0)
    for index in range(40, 60):
        spool.append([sealed(index + 1, index + 1, size_bytes=100)], 2.0)
    spool.close()
    assert (tmp_path / "spool.sqlite").stat().st_size < 3 * MIB


def test_a_damaged_file_is_named_and_moved_aside(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(DataError, match=r"spool\.sqlite.*damaged"):
        make(tmp_path)
    spool, error = Spool.open_or_begin(path, MIB, DAY_S, 0.0)
    assert "moved to" in str(error)
    spool.append([sealed(1, 10)], 0.0)
    spool.close()
    assert (tmp_path / "spool.sqlite.damaged").read_bytes().startswith(b"not a database")
    spool, error = Spool.open_or_begin(path, MIB, DAY_S, 0.0)
    assert error is None and len(spool.pending(10)) == 1


def test_a_failed_append_changes_nothing(tmp_path: Path) -> None:
    spool = make(tmp_path)
    spool.append([sealed(1, 10)], 0.0)
    with pytest.raises(sqlite3.IntegrityError):
        spool.append([sealed(11, 20), SealedBatch(1, "health", 1, 1, None)], 0.0)  # type: ignore[arg-type]
    assert spool.known() == {(1, "road-speed"): 10}
    spool.append([sealed(11, 20)], 0.0)
    assert len(spool.pending(10)) == 2


STREAMS = ("health", "sign-decision", "road-speed")


class SpoolMachine(RuleBasedStateMachine):
    """Random batches, gaps, cursors, epochs and kills against the promise."""

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.spool = make(self.path, max_bytes=MIB, retain_s=20.0)
        self.now_s = 0.0
        self.last: dict[str, int] = {}
        self.covered: dict[str, set[int]] = {stream: set() for stream in STREAMS}
        self.epoch = 1

    def teardown(self) -> None:
        self.spool.close()
        self.folder.cleanup()

    @rule(stream=st.sampled_from(STREAMS), count=st.integers(1, 5), size=st.integers(1, 300_000), gap=st.booleans())
    def append(self, stream: str, count: int, size: int, gap: bool) -> None:
        first = self.last.get(stream, 0) + 1
        last = first + count - 1
        entry = Gap(1, stream, first, last, "pipe-full") if gap else sealed(first, last, stream, size_bytes=size)
        self.spool.append([entry], self.now_s)
        self.last[stream] = last

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
        assert self.spool.stats().used_bytes <= MIB


TestSpoolMachine = SpoolMachine.TestCase
TestSpoolMachine.settings = settings(
    max_examples=8, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 4096), st.binary(min_size=1, max_size=64))
def test_a_torn_log_loses_at_most_its_tail(tmp_path_factory: pytest.TempPathFactory, keep: int, noise: bytes) -> None:
    folder = tmp_path_factory.mktemp("torn")
    spool = make(folder)
    for seq in range(1, 6):
        spool.append([sealed(seq, seq)], 0.0)
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
