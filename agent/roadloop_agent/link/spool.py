"""The spool: telemetry on the vehicle's disk until the cloud has committed it, and for a while after.

One row is one sealed upload batch (SQLite, WAL, synchronous=FULL: what `append` returned from survives a power cut).
Every number that was ever accounted for is *held* here, *committed* by the cloud, or declared *lost* with a reason.
Space is bounded: committed rows go first, then the streams of least value, oldest first, and what goes uncommitted is
declared. Ages are counted in seconds that link has run, which survive a wall clock that jumps.
"""

import contextlib
import json
import sqlite3
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from roadloop_agent.link.batcher import CapturedItem, Gap, Intake, StreamKey
from roadloop_models.contract import channels
from roadloop_models.contract.codec import encode
from roadloop_models.contract.messages import BLOB_STREAM, BlobBlock, Cursor, LostRange
from roadloop_models.errors import DataError, DiskFullError

_VALUE = {"health": 0, BLOB_STREAM: 1, "sign-decision": 2, "speed-decision": 2, "road-speed": 4}
_VALUE_OF_OTHERS = 3
"""What is kept longer where not all can be kept: observations that nobody can make again are worth most."""

_SHRINK_FREE_BYTES = 1 << 20
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS produced (
    boot INTEGER NOT NULL, stream TEXT NOT NULL, last_seq INTEGER NOT NULL, PRIMARY KEY (boot, stream)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batch (
    id INTEGER PRIMARY KEY AUTOINCREMENT, boot INTEGER NOT NULL, stream TEXT NOT NULL, value INTEGER NOT NULL,
    first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL, item TEXT, n INTEGER, committed_age_s REAL,
    payload BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS batch_pending ON batch (id, stream, first_seq, last_seq) WHERE committed_age_s IS NULL;
CREATE INDEX IF NOT EXISTS batch_value ON batch (value, id) WHERE committed_age_s IS NULL;
CREATE INDEX IF NOT EXISTS batch_committed ON batch (id) WHERE committed_age_s IS NOT NULL;
CREATE INDEX IF NOT EXISTS batch_range ON batch (boot, stream, first_seq);
CREATE TABLE IF NOT EXISTS lost (
    id INTEGER PRIMARY KEY AUTOINCREMENT, boot INTEGER NOT NULL, stream TEXT NOT NULL, first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL, reason TEXT NOT NULL, committed_age_s REAL
);
CREATE INDEX IF NOT EXISTS lost_range ON lost (boot, stream, first_seq);
"""


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

    used_bytes: int
    pending_batches: int
    pending_samples: int
    pending_blocks: int
    committed_batches: int
    lost_samples: int
    """Declared lost and not yet covered by the cursor."""


class Spool:
    """The bounded, durable queue. Safe to use from several threads; one transaction at a time."""

    def __init__(self, path: Path, max_bytes: int, retain_committed_s: float, now_s: float) -> None:
        """Open or create; `now_s` is monotonic. Raises DataError where the file is no spool or is damaged."""
        self._path = path
        self._max_bytes = max_bytes
        self._retain_s = retain_committed_s
        self._lock = threading.Lock()
        self._db = _open(path)
        self._opened_s = now_s
        self._age_at_open_s = self._meta("age_s", 0.0)
        self._now_s = now_s
        self._page_bytes = self._number("PRAGMA page_size")
        self._db.execute(
            "DELETE FROM produced WHERE boot < (SELECT max(boot) FROM produced) AND NOT EXISTS "
            "(SELECT 1 FROM batch WHERE batch.boot = produced.boot AND batch.stream = produced.stream)"
        )

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
            aside = path.with_name(f"{path.name}.damaged")
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{path}{suffix}").replace(f"{aside}{suffix}")
            return cls(path, max_bytes, retain_committed_s, now_s), DataError(f"{error}; moved to {aside}")

    def known(self) -> dict[StreamKey, int]:
        """The last number accounted for in each stream (captured blocks left out: link numbers them itself)."""
        with self._lock:
            rows = self._db.execute("SELECT boot, stream, last_seq FROM produced WHERE stream != ?", (BLOB_STREAM,))
            return {(boot, stream): last for boot, stream, last in rows}

    def append(self, intake: Sequence[Intake], now_s: float) -> None:
        """Store batches and gaps, all or none; makes room first. Raises DiskFullError where the disk is full."""
        with self._lock, _Transaction(self._db):
            self._tick(now_s)
            for entry in intake:
                self._mark_produced(entry.boot, entry.stream, entry.last_seq)
                if isinstance(entry, Gap):
                    self._declare(entry.boot, entry.stream, entry.first_seq, entry.last_seq, entry.reason)
                else:
                    self._insert((entry.boot, entry.stream, entry.first_seq, entry.last_seq, None, None), entry.payload)
            self._make_room()
        self._shrink()

    def append_items(self, items: Sequence[CapturedItem], now_s: float) -> None:
        """Store captured items, all or none: one row a block, numbered here. Raises DiskFullError."""
        with self._lock, _Transaction(self._db):
            self._tick(now_s)
            for captured in items:
                self._insert_item(captured)
            self._make_room()
        self._shrink()

    def pending(self, limit: int, skip: Collection[int] = ()) -> list[Held]:
        """The oldest rows that are not committed, without those in `skip`."""
        with self._lock:
            rows = self._db.execute(
                "SELECT id, boot, stream, first_seq, last_seq, item, n, payload FROM batch"
                " WHERE committed_age_s IS NULL AND id NOT IN (SELECT value FROM json_each(?)) ORDER BY id LIMIT ?",
                (json.dumps(list(skip)), limit),
            )
            return [Held(*row) for row in rows]

    def lost(self, limit: int = 256) -> list[LostRange]:
        """Ranges declared lost that the cursor does not cover yet, oldest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT boot, stream, first_seq, last_seq, reason FROM lost WHERE committed_age_s IS NULL"
                " ORDER BY id LIMIT ?",
                (limit,),
            )
            return [
                LostRange(boot=boot, stream=stream, first_seq=first, last_seq=last, reason=reason)
                for boot, stream, first, last, reason in rows
            ]

    def apply_cursor(self, cursor: Cursor, now_s: float) -> CursorEffect:
        """Take the cloud's word. A row or range counts as committed when the cursor covers all of it.

        An epoch other than the last one says that the cloud was restored: whatever it committed before it may have
        forgotten, so all that is still here is pending again, and then this cursor is applied.
        """
        committed: set[int] = set()
        with self._lock, _Transaction(self._db):
            age_s = self._tick(now_s)
            epoch = self._meta("epoch", 0.0)
            new_epoch = epoch not in (0.0, float(cursor.epoch))
            if new_epoch:
                self._db.execute("UPDATE batch SET committed_age_s = NULL")
                self._db.execute("UPDATE lost SET committed_age_s = NULL")
            self._set_meta("epoch", float(cursor.epoch))
            for stream in cursor.streams:
                spans = [(1, stream.prefix), *((span.first, span.last) for span in stream.ranges)]
                for first, last in spans:
                    where = "committed_age_s IS NULL AND boot = ? AND stream = ? AND first_seq >= ? AND last_seq <= ?"
                    key = (stream.boot, stream.stream, first, last)
                    rows = self._db.execute(
                        f"UPDATE batch SET committed_age_s = ? WHERE {where} RETURNING id",
                        (age_s, *key),
                    )
                    committed.update(row[0] for row in rows)
                    self._db.execute(f"UPDATE lost SET committed_age_s = ? WHERE {where}", (age_s, *key))
            self._drop_old(age_s)
        self._shrink()
        return CursorEffect(frozenset(committed), new_epoch)

    def stats(self) -> SpoolStats:
        """What is held now."""
        with self._lock:
            samples = f"coalesce(sum((last_seq - first_seq + 1) * (stream != '{BLOB_STREAM}')), 0)"
            blocks = f"coalesce(sum(stream = '{BLOB_STREAM}'), 0)"
            pending, held_samples, held_blocks = self._db.execute(
                f"SELECT count(*), {samples}, {blocks} FROM batch WHERE committed_age_s IS NULL"
            ).fetchone()
            committed = self._number("SELECT count(*) FROM batch WHERE committed_age_s IS NOT NULL")
            lost = self._number(f"SELECT {samples} FROM lost WHERE committed_age_s IS NULL")
            return SpoolStats(self._used_bytes(), pending, held_samples, held_blocks, committed, lost)

    def close(self) -> None:
        """Close the file; what was appended is on disk already."""
        with self._lock:
            self._db.close()

    # Below here the lock is held and a transaction is open.

    def _insert(self, row: tuple[int, str, int, int, str | None, int | None], payload: bytes) -> None:
        value = _VALUE.get(row[1], _VALUE_OF_OTHERS)
        self._db.execute(
            "INSERT INTO batch (boot, stream, first_seq, last_seq, item, n, value, payload) VALUES (?,?,?,?,?,?,?,?)",
            (*row, value, payload),
        )

    def _insert_item(self, captured: CapturedItem) -> None:
        key = (captured.boot, BLOB_STREAM)
        row = self._db.execute("SELECT last_seq FROM produced WHERE boot = ? AND stream = ?", key).fetchone()
        seq = 0 if row is None else row[0]
        for n, data in enumerate(captured.blocks):
            seq += 1
            payload = encode(channels.BLOB, BlobBlock(boot=captured.boot, seq=seq, item=captured.item, data=data))
            self._insert((*key, seq, seq, captured.item.sha256, n), payload)
        self._mark_produced(*key, seq)

    def _mark_produced(self, boot: int, stream: str, last_seq: int) -> None:
        self._db.execute(
            "INSERT INTO produced VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET last_seq = max(last_seq, excluded.last_seq)",
            (boot, stream, last_seq),
        )

    def _declare(self, boot: int, stream: str, first_seq: int, last_seq: int, reason: str) -> None:
        """Add a lost range, joined with the one before or after it where that has the same reason."""
        same = "boot = ? AND stream = ? AND reason = ? AND committed_age_s IS NULL"
        before = f"SELECT id, first_seq FROM lost WHERE {same} AND last_seq = ?"
        after = f"SELECT id, last_seq FROM lost WHERE {same} AND first_seq = ?"
        for query, neighbour in ((before, first_seq - 1), (after, last_seq + 1)):
            row = self._db.execute(query, (boot, stream, reason, neighbour)).fetchone()
            if row is not None:
                self._db.execute("DELETE FROM lost WHERE id = ?", (row[0],))
                first_seq, last_seq = min(first_seq, row[1]), max(last_seq, row[1])
        self._db.execute(
            "INSERT INTO lost (boot, stream, first_seq, last_seq, reason) VALUES (?, ?, ?, ?, ?)",
            (boot, stream, first_seq, last_seq, reason),
        )

    def _drop_old(self, age_s: float) -> None:
        """Forget what was committed long enough ago."""
        self._db.execute("DELETE FROM batch WHERE committed_age_s <= ?", (age_s - self._retain_s,))
        self._db.execute("DELETE FROM lost WHERE committed_age_s <= ?", (age_s - self._retain_s,))

    def _make_room(self) -> None:
        self._drop_old(self._age_s())
        while self._used_bytes() > self._max_bytes and (self._evict_committed() or self._evict_pending()):
            pass

    def _evict_committed(self) -> bool:
        query = "SELECT id FROM batch WHERE committed_age_s IS NOT NULL ORDER BY id LIMIT 1"
        row = self._db.execute(query).fetchone()
        if row is None:
            return self._db.execute("DELETE FROM lost WHERE committed_age_s IS NOT NULL").rowcount > 0
        self._db.execute("DELETE FROM batch WHERE id = ?", row)
        return True

    def _evict_pending(self) -> bool:
        """Give up the least valuable row; of a captured item all blocks, since a part of it is worth nothing."""
        row = self._db.execute(
            "SELECT id, boot, item FROM batch WHERE committed_age_s IS NULL ORDER BY value, id LIMIT 1"
        ).fetchone()
        if row is None:
            return False
        rows = self._db.execute(
            "DELETE FROM batch WHERE committed_age_s IS NULL AND (id = ? OR (boot = ? AND stream = ? AND item = ?))"
            " RETURNING boot, stream, first_seq, last_seq",
            (row[0], row[1], BLOB_STREAM, row[2]),
        ).fetchall()
        for boot, stream, first_seq, last_seq in sorted(rows):
            self._declare(boot, stream, first_seq, last_seq, "spool-full")
        return True

    def _age_s(self) -> float:
        return self._age_at_open_s + (self._now_s - self._opened_s)

    def _tick(self, now_s: float) -> float:
        self._now_s = max(self._now_s, now_s)
        self._set_meta("age_s", self._age_s())
        return self._age_s()

    def _used_bytes(self) -> int:
        return (self._number("PRAGMA page_count") - self._number("PRAGMA freelist_count")) * self._page_bytes

    def _shrink(self) -> None:
        """Give free pages back to the file system when they are many, a part of them at a time."""
        with self._lock:
            free_bytes = self._number("PRAGMA freelist_count") * self._page_bytes
            if free_bytes > _SHRINK_FREE_BYTES:
                # Not execute(): it would take one step of the statement, and one step frees one page.
                self._db.executescript(f"PRAGMA incremental_vacuum({_SHRINK_FREE_BYTES // self._page_bytes})")

    def _meta(self, key: str, default: float) -> float:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return default if row is None else float(row[0])

    def _set_meta(self, key: str, value: float) -> None:
        self._db.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", (key, value)
        )

    def _number(self, query: str) -> int:
        return int(self._db.execute(query).fetchone()[0])


class _Transaction:
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK on any exception."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if kind is None:
                self._db.execute("COMMIT")
                return
        except sqlite3.OperationalError as failure:
            kind, error = type(failure), failure
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        if isinstance(error, sqlite3.OperationalError):
            raise DiskFullError(f"spool: {error}; nothing was changed") from error


def _open(path: Path) -> sqlite3.Connection:
    try:
        # Autocommit: transactions are begun and ended here, by name.
        db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA journal_size_limit = {4 << 20}")
        db.executescript(_SCHEMA)
        if db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
            db.close()
            raise DataError(f"{path}: damaged, what it held is lost")
    except sqlite3.OperationalError as error:
        raise DiskFullError(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise DataError(f"{path}: {error}: damaged, what it held is lost") from error
    return db
