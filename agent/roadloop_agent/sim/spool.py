"""The spool of a twin: the rules of link/spool.py without a disk, for what thousands of twins hold in one process.

What was appended outlives a power cut of the twin, as it does on a vehicle: it is handed to the next start. Bounded in
bytes of payload; what is committed goes first, then the oldest, and what goes uncommitted is declared lost.
"""

from collections.abc import Collection, Iterable
from itertools import islice

from roadloop_agent.link.batcher import Gap, Intake, StreamKey
from roadloop_agent.link.spool import LOW_VALUE, CursorEffect, Held, SpoolStats
from roadloop_models.contract.messages import Cursor, LostRange, StreamCursor


class MemorySpool:
    """Owned by one thread. `produced`: the last number that was accounted for in each stream."""

    def __init__(self, max_bytes: int) -> None:
        self.produced: dict[StreamKey, int] = {}
        self._max_bytes = max_bytes
        self._bytes = 0
        self._next_id = 1
        self._epoch: int | None = None
        self._pending: dict[int, Held] = {}
        self._committed: dict[int, Held] = {}
        self._lost: list[LostRange] = []
        self._lost_covered: list[LostRange] = []

    def append(self, entries: Iterable[Intake]) -> None:
        """Store batches and gaps."""
        for entry in entries:
            if isinstance(entry, Gap):
                self._declare(entry.boot, entry.stream, entry.first_seq, entry.last_seq, entry.reason)
            else:
                held = Held(
                    id=self._next_id,
                    boot=entry.boot,
                    stream=entry.stream,
                    first_seq=entry.first_seq,
                    last_seq=entry.last_seq,
                    item=None,
                    n=None,
                    payload=entry.payload,
                )
                self._next_id += 1
                self._make_room(len(held.payload))
                self._pending[held.id] = held
                self._bytes += len(held.payload)
            self.produced[(entry.boot, entry.stream)] = entry.last_seq

    # What the session asks.

    def pending(self, limit: int, skip: Collection[int] = (), highlights_only: bool = False) -> list[Held]:
        """Rows that are not committed, without those in `skip`, the oldest first; none is a highlight."""
        if highlights_only:
            return []
        return list(islice((row for key, row in self._pending.items() if key not in skip), limit))

    def lost(self, limit: int = 256) -> list[LostRange]:
        """Ranges declared lost that the cursor does not cover yet, in the order of their numbers."""
        return sorted(self._lost, key=lambda each: (each.boot, each.stream, each.first_seq))[:limit]

    # What link asks.

    def apply_cursor(self, cursor: Cursor, now_s: float) -> CursorEffect:
        """Take the cloud's word: a row or range is committed when the cursor covers all of it. See Spool."""
        new_epoch = self._epoch is not None and self._epoch != cursor.epoch
        self._epoch = cursor.epoch
        if new_epoch:
            self._pending = dict(sorted({**self._committed, **self._pending}.items()))
            self._committed = {}
            self._lost, self._lost_covered = self._lost + self._lost_covered, []
        streams = {(stream.boot, stream.stream): stream for stream in cursor.streams}
        committed = [
            row
            for row in self._pending.values()
            if _covers(streams.get((row.boot, row.stream)), row.first_seq, row.last_seq)
        ]
        for row in committed:
            self._committed[row.id] = self._pending.pop(row.id)
        covered = [
            each for each in self._lost if _covers(streams.get((each.boot, each.stream)), each.first_seq, each.last_seq)
        ]
        self._lost = [each for each in self._lost if each not in covered]
        self._lost_covered += covered
        return CursorEffect(frozenset(row.id for row in committed), new_epoch)

    def stats(self) -> SpoolStats:
        """What is held now."""
        return SpoolStats(
            max_bytes=self._max_bytes,
            disk_bytes=self._bytes,
            used_bytes=self._bytes,
            pending_batches=len(self._pending),
            pending_samples=sum(row.last_seq - row.first_seq + 1 for row in self._pending.values()),
            pending_blocks=0,
            committed_batches=len(self._committed),
            lost_samples=sum(each.last_seq - each.first_seq + 1 for each in self._lost),
        )

    def tend(self, now_s: float) -> None:
        """Nothing ages here: the bound alone says what is forgotten."""

    # Inside.

    def _make_room(self, size_bytes: int) -> None:
        while self._bytes + size_bytes > self._max_bytes and (self._committed or self._pending):
            rows = self._committed or self._pending
            row = rows.pop(next(iter(rows)))
            self._bytes -= len(row.payload)
            if rows is self._pending:
                self._declare(row.boot, row.stream, row.first_seq, row.last_seq, LOW_VALUE)

    def _declare(self, boot: int, stream: str, first_seq: int, last_seq: int, reason: str) -> None:
        self._lost.append(LostRange(boot=boot, stream=stream, first_seq=first_seq, last_seq=last_seq, reason=reason))


def _covers(stream: StreamCursor | None, first_seq: int, last_seq: int) -> bool:
    if stream is None:
        return False
    spans = ((1, stream.prefix), *((span.first, span.last) for span in stream.ranges))
    return any(first <= first_seq and last_seq <= last for first, last in spans)
