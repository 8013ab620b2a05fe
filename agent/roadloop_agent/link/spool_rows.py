"""The rows of the spool's tables, and counters that go along with every change of them.

Everything here happens within a transaction that the caller has begun; `mark` and `go_back` let the counters follow one
that is rolled back.
"""

import sqlite3
from dataclasses import dataclass, replace

from roadloop_agent.link.batcher import StreamKey
from roadloop_agent.link.value import Worth
from roadloop_models.contract.messages import BLOB_STREAM, NOT_SAMPLES, LostRange

ITEM_ROWS = 256
"""No captured item has more blocks (drive sends none above 8 MiB)."""
_MAX_HIGHLIGHTS = 512
"""Of one boot and stream. Each may be an island in the cloud's ledger until what lies between has come, and the cloud
takes at most 1024."""
_PENDING = "committed_age_s IS NULL"
_WITHIN = f"{_PENDING} AND boot = ? AND stream = ? AND first_seq >= ? AND last_seq <= ?"
_NEIGHBOUR = f"SELECT id, first_seq, last_seq, iif({_PENDING}, reason, NULL) FROM lost WHERE boot = ? AND stream = ?"
_BEFORE = f"{_NEIGHBOUR} AND first_seq < ? ORDER BY first_seq DESC LIMIT 1"
_AFTER = f"{_NEIGHBOUR} AND first_seq > ? ORDER BY first_seq LIMIT 1"
Span = tuple[int, str, int, int]
"""(boot, stream, first, last), both included."""


@dataclass(frozen=True)
class Count:
    """Counted along: counting anew would read the whole file. Samples are those of telemetry,
    without blocks and sketches."""

    batches: int = 0
    samples: int = 0
    blocks: int = 0
    committed: int = 0
    lost: int = 0

    def add(self, stream: str, first_seq: int, last_seq: int, sign: int) -> "Count":
        """One pending row more, or (-1) less."""
        size = sign * (last_seq - first_seq + 1)
        if stream == BLOB_STREAM:
            return replace(self, batches=self.batches + sign, blocks=self.blocks + size)
        if stream in NOT_SAMPLES:
            return replace(self, batches=self.batches + sign)
        return replace(self, batches=self.batches + sign, samples=self.samples + size)


Mark = tuple[Count, int, dict[StreamKey, int]]


class Rows:
    """What the tables hold, through one connection."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        # Ids are never used again while this process runs: who publishes knows rows by them.
        self._last_id: int = db.execute("SELECT coalesce(max(id), 0) FROM batch").fetchone()[0]
        self._highlights: dict[StreamKey, int] = {
            (boot, stream): count
            for boot, stream, count in db.execute(
                f"SELECT boot, stream, count(*) FROM batch WHERE {_PENDING} AND highlight = 1 GROUP BY boot, stream"
            )
        }
        self.count = self.counted()

    def mark(self) -> Mark:
        """What to go back to where the transaction is rolled back."""
        return self.count, self._last_id, dict(self._highlights)

    def go_back(self, mark: Mark) -> None:
        """The transaction was rolled back."""
        self.count, self._last_id, self._highlights = mark

    def forget_old_boots(self) -> None:
        """Streams of boots before the last, of which nothing is pending, will not go on."""
        self._db.execute(
            "DELETE FROM produced WHERE boot < (SELECT max(boot) FROM produced) AND NOT EXISTS (SELECT 1 FROM batch"
            f" WHERE {_PENDING} AND batch.boot = produced.boot AND batch.stream = produced.stream)"
        )

    def last_produced(self, boot: int, stream: str) -> int:
        """The last number accounted for; 0 where there is none."""
        query = "SELECT last_seq FROM produced WHERE boot = ? AND stream = ?"
        row = self._db.execute(query, (boot, stream)).fetchone()
        return 0 if row is None else int(row[0])

    def mark_produced(self, boot: int, stream: str, last_seq: int) -> None:
        """Numbers up to this one are accounted for."""
        self._db.execute(
            "INSERT INTO produced VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET last_seq = max(last_seq, excluded.last_seq)",
            (boot, stream, last_seq),
        )

    def insert(self, span: Span, payload: bytes, worth: Worth, item: str | None = None, n: int | None = None) -> None:
        """Add a pending row."""
        key = span[0], span[1]
        highlight = worth.highlight and self._highlights.get(key, 0) < _MAX_HIGHLIGHTS
        if highlight:
            self._highlights[key] = self._highlights.get(key, 0) + 1
        self._last_id += 1
        self._db.execute(
            "INSERT INTO batch (id, boot, stream, first_seq, last_seq, item, n, value, highlight, payload)"
            " VALUES (?,?,?,?,?,?,?,?,?,?)",
            (self._last_id, *span, item, n, worth.value, highlight, payload),
        )
        self.count = self.count.add(span[1], span[2], span[3], 1)

    def declare(self, span: Span, reason: str) -> None:
        """Add a lost range, joined with the one before or after it where that has the same reason."""
        boot, stream, first_seq, last_seq = span
        if stream not in NOT_SAMPLES:
            self.count = replace(self.count, lost=self.count.lost + last_seq - first_seq + 1)
        for query in (_BEFORE, _AFTER):
            row = self._db.execute(query, (boot, stream, first_seq)).fetchone()
            if row is not None and row[3] == reason and (row[2] == first_seq - 1 or row[1] == last_seq + 1):
                self._db.execute("DELETE FROM lost WHERE id = ?", (row[0],))
                first_seq, last_seq = min(first_seq, row[1]), max(last_seq, row[2])
        self._db.execute(
            "INSERT INTO lost (boot, stream, first_seq, last_seq, reason) VALUES (?, ?, ?, ?, ?)",
            (boot, stream, first_seq, last_seq, reason),
        )

    def lost(self, limit: int) -> list[LostRange]:
        """Lost ranges that are not covered, in the order of their numbers."""
        rows = self._db.execute(
            f"SELECT boot, stream, first_seq, last_seq, reason FROM lost WHERE {_PENDING}"
            " ORDER BY boot, stream, first_seq LIMIT ?",
            (limit,),
        )
        return [
            LostRange(boot=boot, stream=stream, first_seq=first, last_seq=last, reason=reason)
            for boot, stream, first, last, reason in rows
        ]

    def least_value(self) -> float | None:
        """The value of the pending row that is to go first; None where there is none."""
        row = self._db.execute(f"SELECT value FROM batch WHERE {_PENDING} ORDER BY value, id LIMIT 1").fetchone()
        return None if row is None else float(row[0])

    def evict_least(self, reason: str) -> None:
        """Give up the pending row of least value, the oldest of those, and declare it.

        Of a captured item all blocks go, since a part of it is worth nothing.
        """
        row_id, item = self._db.execute(
            f"SELECT id, item FROM batch WHERE {_PENDING} ORDER BY value, id LIMIT 1"
        ).fetchone()
        rows = self._db.execute(
            f"DELETE FROM batch WHERE {_PENDING} AND (id = ? OR (id BETWEEN ? AND ? AND item = ?))"
            " RETURNING boot, stream, first_seq, last_seq",
            (row_id, row_id, row_id + ITEM_ROWS, item),
        ).fetchall()
        for boot, stream, first_seq, last_seq in sorted(rows):
            self.count = self.count.add(stream, first_seq, last_seq, -1)
            self.declare((boot, stream, first_seq, last_seq), reason)

    def has_older_than(self, age_s: float) -> bool:
        """Whether anything was committed at that age or before."""
        query = "SELECT 1 FROM {} WHERE committed_age_s <= ? LIMIT 1"
        return any(self._db.execute(query.format(table), (age_s,)).fetchone() for table in ("batch", "lost"))

    def forget(self, age_s: float, limit: int) -> int:
        """Delete rows that were committed at that age or before, the oldest first; how many."""
        gone = self._db.execute(
            "DELETE FROM batch WHERE id IN"
            " (SELECT id FROM batch WHERE committed_age_s <= ? ORDER BY committed_age_s, id LIMIT ?)",
            (age_s, limit),
        ).rowcount
        self.count = replace(self.count, committed=self.count.committed - gone)
        return gone

    def forget_lost(self, age_s: float) -> int:
        """Delete lost ranges that were covered at that age or before; how many."""
        return self._db.execute("DELETE FROM lost WHERE committed_age_s <= ?", (age_s,)).rowcount

    def has_pending(self, span: Span) -> bool:
        """Whether rows or lost ranges that are not committed lie within the span."""
        query = f"SELECT 1 FROM {{}} WHERE {_WITHIN} LIMIT 1"
        return any(self._db.execute(query.format(table), span).fetchone() for table in ("batch", "lost"))

    def commit(self, span: Span, age_s: float, limit: int) -> list[int]:
        """Mark rows and lost ranges within the span as committed; the rows' ids, at most `limit`."""
        rows = self._db.execute(
            f"UPDATE batch SET committed_age_s = ? WHERE id IN (SELECT id FROM batch WHERE {_WITHIN} LIMIT ?)"
            " RETURNING id, stream, first_seq, last_seq",
            (age_s, *span, limit),
        ).fetchall()
        for _, stream, first_seq, last_seq in rows:
            self.count = self.count.add(stream, first_seq, last_seq, -1)
        covered = self._db.execute(
            f"UPDATE lost SET committed_age_s = ? WHERE {_WITHIN} RETURNING stream, last_seq - first_seq + 1",
            (age_s, *span),
        ).fetchall()
        gone = sum(size for stream, size in covered if stream not in NOT_SAMPLES)
        self.count = replace(self.count, committed=self.count.committed + len(rows), lost=self.count.lost - gone)
        return [row[0] for row in rows]

    def uncommit(self, limit: int) -> int:
        """Make committed rows pending again, and all lost ranges; how many rows, at most `limit`."""
        changed = self._db.execute(
            "UPDATE batch SET committed_age_s = NULL WHERE id IN"
            " (SELECT id FROM batch WHERE committed_age_s IS NOT NULL LIMIT ?)",
            (limit,),
        ).rowcount
        self._db.execute("UPDATE lost SET committed_age_s = NULL WHERE committed_age_s IS NOT NULL")
        self.count = self.counted()
        return changed

    def counted(self) -> Count:
        """All counters, from the indexes."""
        samples = f"coalesce(sum((last_seq - first_seq + 1) * (stream NOT IN {NOT_SAMPLES})), 0)"
        blocks = f"coalesce(sum(stream = '{BLOB_STREAM}'), 0)"

        def row(query: str) -> tuple[int, ...]:
            return tuple(self._db.execute(query).fetchone())

        batches, held, held_blocks = row(
            f"SELECT count(*), {samples}, {blocks} FROM batch INDEXED BY batch_span WHERE {_PENDING}"
        )
        (committed,) = row("SELECT count(*) FROM batch WHERE committed_age_s IS NOT NULL")
        (lost,) = row(f"SELECT {samples} FROM lost WHERE {_PENDING}")
        return Count(batches, held, held_blocks, committed, lost)
