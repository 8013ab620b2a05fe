"""The spool: telemetry on the vehicle's disk until the cloud has committed it, and for a while after.

One row is one sealed upload batch, or one block of a captured item. Every number that was ever accounted for is *held*
here, *committed* by the cloud, or declared *lost* with a reason. Space is bounded (spool_file.py): committed rows go
first, then the least valuable, oldest first among equals, and what goes uncommitted is declared. What is worth less
than all that is held is not even written. Ages are counted in seconds that link has run, which survive a wall clock
that jumps.
"""

import contextlib
import json
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from roadloop_agent.link.batcher import CapturedItem, Gap, Intake, StreamKey
from roadloop_agent.link.spool_file import Bounds, SpoolFile, move_aside
from roadloop_agent.link.spool_rows import ITEM_ROWS, Rows, Span
from roadloop_agent.link.value import Worth
from roadloop_models.contract import channels
from roadloop_models.contract.codec import encode
from roadloop_models.contract.messages import BLOB_STREAM, SKETCH_STREAM, BlobBlock, Cursor, LostRange
from roadloop_models.errors import DataError, DiskFullError, RoadloopError

LOW_VALUE = "spool-full:low-value"
"""The bound was reached, and this was worth less than what was kept."""
NO_BULK_LEFT = "spool-full:no-bulk-left"
"""The bound was reached, and health or summaries were all that could go."""
TOO_LARGE = "spool-full:too-large"
"""A captured item that would take more than a transaction may write."""

_BLOCK_HEADER_BYTES = 512
_AGE_PERIOD_S, _IDLE_AGE_PERIOD_S = 10.0, 60.0
"""How often the age is written down, with what is written anyway or by itself; a kill sets it back by no more."""


@dataclass(frozen=True)
class Held:
    """One row that the cloud has not committed, ready to be published."""

    id: int
    boot: int
    stream: str
    first_seq: int
    last_seq: int
    item: str | None
    """SHA-256 of the captured item that this row is block `n` of."""
    n: int | None
    payload: bytes

    def topic(self, vehicle: str) -> str:
        """Where it is published."""
        if self.stream == SKETCH_STREAM:
            return channels.SKETCH.topic(vehicle)
        if self.item is None or self.n is None:
            return channels.TELEMETRY.topic(vehicle, stream=self.stream)
        return channels.BLOB.topic(vehicle, sha256=self.item, n=self.n)


@dataclass(frozen=True)
class CursorEffect:
    """What a cursor changed: the rows it committed, and whether its epoch was new (everything is pending again)."""

    committed: frozenset[int]
    new_epoch: bool


@dataclass(frozen=True)
class SpoolStats:
    """What the spool holds now; samples are those of telemetry, without blocks of captured items."""

    max_bytes: int
    """The bound of `disk_bytes`."""
    disk_bytes: int
    """The file, its log and the log's index."""
    used_bytes: int
    """The file without its free pages."""
    pending_batches: int
    pending_samples: int
    pending_blocks: int
    committed_batches: int
    lost_samples: int
    """Declared lost and not yet covered by the cursor."""


class Spool:
    """The bounded, durable queue. Safe to use from several threads; one transaction at a time."""

    def __init__(self, path: Path, max_bytes: int, retain_committed_s: float, now_s: float) -> None:
        """Open or create; `now_s` is monotonic. Raises DataError where the file is no spool or is damaged.

        It does not look for damage: a large file takes long to read. `check` does, in a thread of its own.
        """
        self._retain_s = retain_committed_s
        self._lock = threading.Lock()
        self._file = SpoolFile(path, Bounds(max_bytes))
        self._db = self._file.db
        self._opened_s = self._now_s = now_s
        try:
            with self._file.reading():
                self._age_at_open_s = self._age_written_s = self._meta("age_s", 0.0)
                self._rows = Rows(self._db)
                self._rows.forget_old_boots()
        except RoadloopError:
            self._file.close()
            raise

    @classmethod
    def open_or_begin(
        cls, path: Path, max_bytes: int, retain_committed_s: float, now_s: float
    ) -> tuple["Spool", DataError | None]:
        """Open the spool; a damaged one is moved aside for a person and a new one begun: (spool, what happened).

        Only a fault of the disk damages it. A vehicle that is far from any person must go on reporting.
        """
        try:
            return cls(path, max_bytes, retain_committed_s, now_s), None
        except DataError as error:
            aside = move_aside(path)
            return cls(path, max_bytes, retain_committed_s, now_s), DataError(f"{error}; moved to {aside}")

    def known(self) -> dict[StreamKey, int]:
        """The last number accounted for in each stream (captured blocks left out: link numbers them itself)."""
        with self._lock, self._file.reading():
            rows = self._db.execute("SELECT boot, stream, last_seq FROM produced WHERE stream != ?", (BLOB_STREAM,))
            return {(boot, stream): last for boot, stream, last in rows}

    def append(self, waiting: deque[Intake], now_s: float) -> None:
        """Store batches and gaps from the left of `waiting`, and take them out of it as they are durable.

        In as few transactions as their bound allows. Raises DiskFullError where the disk is full; what is still in
        `waiting` is not stored.
        """
        while waiting:
            done, added_bytes = 0, 0
            with self._transaction(now_s):
                for entry in waiting:
                    size_bytes = 0 if isinstance(entry, Gap) else len(entry.payload)
                    if done and added_bytes + size_bytes > self._file.bounds.transaction_bytes:
                        break
                    if not self._store(entry):
                        break
                    done += 1
                    added_bytes += size_bytes
            for _ in range(done):
                waiting.popleft()

    def append_items(self, waiting: deque[CapturedItem], now_s: float) -> None:
        """Store captured items like `append`: one transaction an item, one row a block, numbered here."""
        while waiting:
            with self._transaction(now_s):
                done = self._store_item(waiting[0])
            if done:
                waiting.popleft()

    def pending(self, limit: int, skip: Collection[int] = (), highlights_only: bool = False) -> list[Held]:
        """Rows that are not committed, without those in `skip`: highlights first, otherwise the oldest first."""
        only = " AND highlight = 1" if highlights_only else ""
        with self._lock, self._file.reading():
            rows = self._db.execute(
                "SELECT id, boot, stream, first_seq, last_seq, item, n, payload FROM batch"
                f" WHERE committed_age_s IS NULL{only} AND id NOT IN (SELECT value FROM json_each(?))"
                " ORDER BY highlight DESC, id LIMIT ?",
                (json.dumps(list(skip)), limit),
            )
            return [Held(*row) for row in rows]

    def lost(self, limit: int = 256) -> list[LostRange]:
        """Ranges declared lost that the cursor does not cover yet.

        In the order of their numbers: what the cloud accounts for then grows from its prefix on, with few islands.
        """
        with self._lock, self._file.reading():
            return self._rows.lost(limit)

    def apply_cursor(self, cursor: Cursor, now_s: float) -> CursorEffect:
        """Take the cloud's word. A row or range counts as committed when the cursor covers all of it.

        An epoch other than the last one says that the cloud was restored: whatever it committed before it may have
        forgotten, so all that is still here is pending again, and then this cursor is applied. In steps, each a
        transaction: one that is interrupted is done by the next cursor, which says the same and more.
        """
        committed: set[int] = set()
        epoch = self.kept().get("epoch", 0.0)
        new_epoch = epoch not in (0.0, float(cursor.epoch))
        if new_epoch:
            self._in_steps(now_s, self._rows.uncommit)
        if epoch != cursor.epoch:
            self.keep({"epoch": float(cursor.epoch)}, now_s)
        for stream in cursor.streams:
            for first, last in ((1, stream.prefix), *((span.first, span.last) for span in stream.ranges)):
                span = (stream.boot, stream.stream, first, last)

                def commit(limit: int, span: Span = span) -> int:
                    while not self._file.has_room(0, 0) and self._rows.forget(self._age_s() + 1.0, 1):
                        pass
                    rows = self._rows.commit(span, self._age_s(), limit)
                    committed.update(rows)
                    return len(rows)

                with self._lock, self._file.reading():
                    moves = self._rows.has_pending(span)
                if moves:
                    self._in_steps(now_s, commit)
        return CursorEffect(frozenset(committed), new_epoch)

    def tend(self, now_s: float) -> None:
        """A small part of what has to be done some time: forget what is old, give free space back.

        To be called about once a second by a thread that stores nothing. Raises DiskFullError.
        """
        with self._lock, self._file.reading():
            self._now_s = max(self._now_s, now_s)
            old_s = self._age_s() - self._retain_s
            old, above = self._rows.has_older_than(old_s), self._is_above_bound()
            idle_s = self._age_s() - self._age_written_s
        if old or idle_s >= _IDLE_AGE_PERIOD_S:
            with self._transaction(now_s):
                self._rows.forget(old_s, self._file.bounds.step_rows)
                self._rows.forget_lost(old_s)
        if above:
            with self._transaction(now_s):
                for _ in range(self._file.bounds.step_rows):
                    if not self._is_above_bound() or not self._give_up(None):
                        break
        with self._lock, self._file.reading():
            self._file.shrink()

    def check(self, give_up: Callable[[], bool]) -> bool | None:
        """Whether the file is sound, asked of the disk in any thread; None where it is not known.

        A file that is not is condemned: the next opening moves it aside.
        """
        return self._file.check(give_up)

    def stats(self) -> SpoolStats:
        """What is held now."""
        with self._lock, self._file.reading():
            count = self._rows.count
            return SpoolStats(
                max_bytes=self._file.bounds.max_bytes,
                disk_bytes=self._file.disk_bytes(),
                used_bytes=self._file.used_bytes(),
                pending_batches=count.batches,
                pending_samples=count.samples,
                pending_blocks=count.blocks,
                committed_batches=count.committed,
                lost_samples=count.lost,
            )

    def keep(self, facts: dict[str, float], now_s: float) -> None:
        """Remember numbers durably, by name. Raises DiskFullError."""
        with self._transaction(now_s):
            for key, value in facts.items():
                self._set_meta(key, value)

    def kept(self) -> dict[str, float]:
        """All that was remembered."""
        with self._lock, self._file.reading():
            return dict(self._db.execute("SELECT key, value FROM meta").fetchall())

    def close(self) -> None:
        """Close the file; what was appended is on disk already, and the age is written where it can be."""
        with contextlib.suppress(DiskFullError, DataError):
            self.keep({"age_s": self._age_s()}, self._now_s)
        with self._lock:
            self._file.close()

    @contextlib.contextmanager
    def _transaction(self, now_s: float) -> Iterator[None]:
        """The lock, a transaction, and counters that go back with it."""
        with self._lock:
            mark, age_written_s = self._rows.mark(), self._age_written_s
            try:
                with self._file.transaction():
                    self._tick(now_s)
                    yield
            except BaseException:
                self._rows.go_back(mark)
                self._age_written_s = age_written_s
                raise

    def _in_steps(self, now_s: float, step: Callable[[int], int]) -> None:
        """Repeat a step, each in a transaction of its own, until it changes fewer rows than it may."""
        limit = self._file.bounds.step_rows
        changed = limit
        while changed >= limit:
            with self._transaction(now_s):
                changed = step(limit)

    # Below here the lock is held and a transaction is open.

    def _store(self, entry: Intake) -> bool:
        """Write one entry, or declare it lost; False where more has to go first than one transaction may take."""
        span = (entry.boot, entry.stream, entry.first_seq, entry.last_seq)
        if isinstance(entry, Gap):
            self._rows.declare(span, entry.reason)
        else:
            room = self._make_room(len(entry.payload), entry.worth)
            if room is None:
                return False
            if room:
                self._rows.insert(span, entry.payload, entry.worth)
            else:
                self._rows.declare(span, _reason(entry.worth.value))
        self._rows.mark_produced(entry.boot, entry.stream, entry.last_seq)
        return True

    def _store_item(self, captured: CapturedItem) -> bool:
        """The same for a captured item; its blocks get their numbers here."""
        boot, blocks = captured.boot, captured.blocks
        first = self._rows.last_produced(boot, BLOB_STREAM) + 1
        last = first + len(blocks) - 1
        size_bytes = sum(len(block) + _BLOCK_HEADER_BYTES for block in blocks)
        fits = size_bytes <= self._file.bounds.transaction_bytes and len(blocks) <= ITEM_ROWS
        room = self._make_room(size_bytes, captured.worth, len(blocks)) if fits else False
        if room is None:
            return False
        if room:
            for n, data in enumerate(blocks):
                block = BlobBlock(boot=boot, seq=first + n, item=captured.item, data=data)
                span = (boot, BLOB_STREAM, first + n, first + n)
                self._rows.insert(span, encode(channels.BLOB, block), captured.worth, captured.item.sha256, n)
        else:
            self._rows.declare((boot, BLOB_STREAM, first, last), LOW_VALUE if fits else TOO_LARGE)
        self._rows.mark_produced(boot, BLOB_STREAM, last)
        return True

    def _make_room(self, size_bytes: int, worth: Worth, rows: int = 1) -> bool | None:
        """Make room for rows of that worth. False: they are worth least themselves. None: it takes another step."""
        for _ in range(self._file.bounds.step_rows):
            if self._file.has_room(size_bytes, rows):
                return True
            if not self._give_up(worth.value):
                return False
        return None

    def _give_up(self, value: float | None) -> bool:
        """Let one row go: a committed one, or the least valuable; False where none is worth less than `value`."""
        ever_s = self._age_s() + 1.0
        if self._rows.forget(ever_s, 1) or self._rows.forget_lost(ever_s):
            return True
        least = self._rows.least_value()
        if least is None or (value is not None and value < least):
            return False
        self._rows.evict_least(_reason(least))
        return True

    def _is_above_bound(self) -> bool:
        """Only where `max_bytes` was lowered."""
        return self._file.used_bytes() > self._file.bounds.file_bytes

    def _age_s(self) -> float:
        return self._age_at_open_s + (self._now_s - self._opened_s)

    def _tick(self, now_s: float) -> None:
        self._now_s = max(self._now_s, now_s)
        if self._age_s() - self._age_written_s >= _AGE_PERIOD_S:
            self._age_written_s = self._age_s()
            self._set_meta("age_s", self._age_written_s)

    def _meta(self, key: str, default: float) -> float:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return default if row is None else float(row[0])

    def _set_meta(self, key: str, value: float) -> None:
        self._db.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", (key, value)
        )


def _reason(value: float) -> str:
    """Why rows of this value go when the bound is reached."""
    return LOW_VALUE if value < 1.0 else NO_BULK_LEFT
