"""The SQLite file under the spool: schema and migration, transactions, and a bound that the file itself enforces.

WAL with synchronous=FULL: what a transaction returned from survives a power cut. The bound is on all bytes that the
file, its log (-wal) and the log's index (-shm) take together; `Bounds` divides it. The file grows by pages up to its
part and SQLite refuses more; the log is folded back at its threshold, and no transaction may write more than its share.
Only a fault of the disk damages the file. Whoever meets it condemns the file, and the next opening moves it aside.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from roadloop_models.contract.channels import MAX_MESSAGE_BYTES
from roadloop_models.errors import DataError, DiskFullError

SCHEMA_VERSION = 1
PAGE_BYTES = 2048
"""Half of SQLite's default: a transaction changes the same pages, and so writes about half (tests/bench/spool.py)."""

_SHM_BYTES, _SHM_FRAMES = 32 << 10, 4062
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_SHRINK_FREE_BYTES = 1 << 20
"""So much free space is left in the file for what comes next."""

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS produced (
    boot INTEGER NOT NULL, stream TEXT NOT NULL, last_seq INTEGER NOT NULL, PRIMARY KEY (boot, stream)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batch (
    id INTEGER PRIMARY KEY, boot INTEGER NOT NULL, stream TEXT NOT NULL, value REAL NOT NULL,
    first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL, item TEXT, n INTEGER, committed_age_s REAL,
    payload BLOB NOT NULL, highlight INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS lost (
    id INTEGER PRIMARY KEY AUTOINCREMENT, boot INTEGER NOT NULL, stream TEXT NOT NULL, first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL, reason TEXT NOT NULL, committed_age_s REAL
);
CREATE INDEX IF NOT EXISTS lost_range ON lost (boot, stream, first_seq);
"""
_INDEXES = """
CREATE INDEX IF NOT EXISTS batch_send ON batch (highlight DESC, id) WHERE committed_age_s IS NULL;
CREATE INDEX IF NOT EXISTS batch_worth ON batch (value, id) WHERE committed_age_s IS NULL;
CREATE INDEX IF NOT EXISTS batch_span ON batch (boot, stream, first_seq, last_seq) WHERE committed_age_s IS NULL;
CREATE INDEX IF NOT EXISTS batch_done ON batch (committed_age_s, id) WHERE committed_age_s IS NOT NULL;
"""
_FROM_0 = """
DROP INDEX IF EXISTS batch_pending;
DROP INDEX IF EXISTS batch_value;
DROP INDEX IF EXISTS batch_committed;
DROP INDEX IF EXISTS batch_range;
"""


@dataclass(frozen=True)
class Bounds:
    """What `max_bytes` on disk is divided into."""

    max_bytes: int

    @property
    def transaction_bytes(self) -> int:
        """Payload that one transaction may add: a sixteenth, at least a message and at most a captured item."""
        return max(MAX_MESSAGE_BYTES * 5 // 4, min(self.max_bytes // 16, 9 << 20))

    @property
    def log_bytes(self) -> int:
        """At this size the log is folded back into the file."""
        return min(self.max_bytes // 16, 4 << 20)

    @property
    def file_bytes(self) -> int:
        """What is left for the file: the log may overshoot by one transaction."""
        most_log = self.log_bytes + self.transaction_bytes * 3 // 2
        return self.max_bytes - most_log - _SHM_BYTES * (2 + most_log // PAGE_BYTES // _SHM_FRAMES)

    @property
    def step_rows(self) -> int:
        """How many rows one transaction may delete or mark: each may touch half a dozen pages."""
        return max(8, min(256, self.transaction_bytes >> 14))


class SpoolFile:
    """One connection, used by whoever holds the spool's lock."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        """Open or create. Raises DataError where the file is no spool, is damaged or condemned; DiskFullError."""
        self.path = path
        self.bounds = bounds
        if _verdict(path).exists():
            raise DataError(f"{path}: damaged, what it held is lost")
        with _told_apart(path):
            self.db = _connect(path)
            self._page_bytes = self.number("PRAGMA page_size")
            self.db.execute(f"PRAGMA wal_autocheckpoint = {bounds.log_bytes // self._page_bytes}")
            self.db.execute(f"PRAGMA journal_size_limit = {bounds.log_bytes}")
            self._migrate()
            self._limit()

    def number(self, query: str, parameters: tuple[object, ...] = ()) -> int:
        """The one number that a query gives."""
        return int(self.db.execute(query, parameters).fetchone()[0])

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """For statements that stand alone. Raises DiskFullError, DataError."""
        with _told_apart(self.path):
            yield

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """BEGIN IMMEDIATE … COMMIT, or ROLLBACK on any exception. Raises DiskFullError, DataError."""
        with _told_apart(self.path):
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise

    def has_room(self, size_bytes: int, rows: int = 1) -> bool:
        """Whether rows of so many bytes in all would fit the file's part of the bound, whatever pages they split."""
        pages = -(-size_bytes // (self._page_bytes - 64)) + 2 * rows + 8
        # Rows that are marked as committed split pages too: that must be possible in a file that is full of rows.
        pages += 2 * self.bounds.step_rows + 16
        return (self._used_pages() + pages) * self._page_bytes <= self.bounds.file_bytes

    def used_bytes(self) -> int:
        """The file without its free pages."""
        return self._used_pages() * self._page_bytes

    def disk_bytes(self) -> int:
        """What file, log and the log's index take now."""
        sizes = 0
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                sizes += Path(f"{self.path}{suffix}").stat().st_size
        return sizes

    def shrink(self) -> bool:
        """Give a part of many free pages back to the file system; whether there are more. Raises DiskFullError."""
        pages = max(16, min(512, self.bounds.transaction_bytes // self._page_bytes // 6))
        free = self.number("PRAGMA freelist_count")
        size_bytes = self.number("PRAGMA page_count") * self._page_bytes
        with _told_apart(self.path):
            if free * self._page_bytes > _SHRINK_FREE_BYTES or (free and size_bytes > self.bounds.file_bytes):
                # Not execute(): it would take one step of the statement, and one step frees one page.
                self.db.executescript(f"PRAGMA incremental_vacuum({pages})")
                self._limit()
                return True
            if self.disk_bytes() > size_bytes + self.bounds.log_bytes + 2 * _SHM_BYTES:
                self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return False

    def check(self, give_up: Callable[[], bool]) -> bool | None:
        """Look for damage through a connection of its own, in any thread; condemn the file where there is some.

        True: it is sound. None: not known, since `give_up` said so, or the log (which cannot be folded back while
        somebody reads) came near its bound.
        """
        most_log = self.bounds.log_bytes + self.bounds.transaction_bytes // 2

        def stop() -> bool:
            return give_up() or Path(f"{self.path}-wal").stat().st_size > most_log

        with contextlib.closing(sqlite3.connect(f"file:{quote(str(self.path))}?mode=ro", uri=True)) as db:
            db.set_progress_handler(stop, 10_000)
            if stop():
                return None
            try:
                sound = bool(db.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")
            except sqlite3.DatabaseError as error:
                if error.sqlite_errorcode not in _DAMAGE:
                    return None
                sound = False
        if not sound:
            _condemn(self.path)
        return sound

    def close(self) -> None:
        """Close the file; what was committed is on disk already."""
        self.db.close()

    def _used_pages(self) -> int:
        return self.number("PRAGMA page_count") - self.number("PRAGMA freelist_count")

    def _limit(self) -> None:
        """Let SQLite itself refuse to grow beyond the bound (or beyond what the file has already)."""
        self.db.execute(f"PRAGMA max_page_count = {self.bounds.file_bytes // self._page_bytes}")

    def _migrate(self) -> None:
        """Bring an older file up to this schema, in steps that may be interrupted; the version is written last."""
        version = self.number("PRAGMA user_version")
        if version > SCHEMA_VERSION:
            raise DataError(f"{self.path}: written by a newer agent (schema {version}), what it holds cannot be read")
        self.db.executescript(_TABLES)
        if version < SCHEMA_VERSION:
            columns = {row[1] for row in self.db.execute("PRAGMA table_info(batch)")}
            if "highlight" not in columns:
                self.db.execute("ALTER TABLE batch ADD COLUMN highlight INTEGER NOT NULL DEFAULT 0")
            self.db.executescript(_FROM_0)
            # Rows of schema 0 have whole numbers: what a class of stream was worth. Fractions tell the two apart.
            last = self.number("SELECT coalesce(max(id), 0) FROM batch")
            for first in range(1, last + 1, 500):
                self.db.execute(
                    "UPDATE batch SET value = iif(stream = 'health', 1.125, 0.125)"
                    " WHERE id BETWEEN ? AND ? AND typeof(value) = 'integer'",
                    (first, first + 499),
                )
        self.db.executescript(_INDEXES)
        self.db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def move_aside(path: Path) -> Path:
    """Keep a damaged file for a person, and make room for a new one; where it is now."""
    aside = path.with_name(f"{path.name}.damaged")
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").replace(f"{aside}{suffix}")
    _verdict(path).unlink(missing_ok=True)
    return aside


def _connect(path: Path) -> sqlite3.Connection:
    # Autocommit: transactions are begun and ended here, by name.
    db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    try:
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error:
        db.close()
        raise
    return db


def _verdict(path: Path) -> Path:
    """There where the file was found to be damaged."""
    return path.with_name(f"{path.name}.condemned")


def _condemn(path: Path) -> None:
    with contextlib.suppress(OSError):
        _verdict(path).touch()


@contextlib.contextmanager
def _told_apart(path: Path) -> Iterator[None]:
    """SQLite's errors in the words of the catalogue: damage, or a disk that may have room later."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", None) in _DAMAGE:
            _condemn(path)
            raise DataError(f"{path}: {error}: damaged, what it held is lost") from error
        if isinstance(error, sqlite3.OperationalError):
            raise DiskFullError(f"{path}: {error}; nothing was changed") from error
        raise
