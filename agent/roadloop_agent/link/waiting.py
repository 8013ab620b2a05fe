"""What waits in memory for the disk: bounded, and what is too much is declared, the least valuable first. No I/O."""

from collections import deque

from roadloop_agent.link.batcher import Gap, Intake, SealedBatch

DISK_FULL = "disk-full:low-value"


def size_bytes(waiting: deque[Intake]) -> int:
    """Payloads that wait."""
    return sum(len(entry.payload) for entry in waiting if isinstance(entry, SealedBatch))


def bounded(waiting: deque[Intake], max_bytes: int) -> deque[Intake]:
    """The same within the bound: batches become gaps, the least valuable first, the oldest of those.

    Gaps of one stream that follow each other become one, so that a disk which stays full for long costs no more memory.
    """
    excess = size_bytes(waiting) - max_bytes
    by_value = sorted(
        (entry.worth.value, index) for index, entry in enumerate(waiting) if isinstance(entry, SealedBatch)
    )
    given_up: set[int] = set()
    for _, index in by_value:
        if excess <= 0:
            break
        entry = waiting[index]
        assert isinstance(entry, SealedBatch)
        excess -= len(entry.payload)
        given_up.add(index)
    kept: list[Intake] = []
    last: dict[tuple[int, str], int] = {}  # where the last entry of each stream is
    for index, entry in enumerate(waiting):
        key = (entry.boot, entry.stream)
        follows = _gap(entry) if index in given_up else entry
        before = kept[last[key]] if key in last else None
        if isinstance(follows, Gap) and isinstance(before, Gap) and _joins(before, follows):
            kept[last[key]] = Gap(*key, before.first_seq, follows.last_seq, before.reason)
        else:
            last[key] = len(kept)
            kept.append(follows)
    return deque(kept)


def _gap(entry: Intake) -> Gap:
    return Gap(entry.boot, entry.stream, entry.first_seq, entry.last_seq, DISK_FULL)


def _joins(before: Gap, after: Gap) -> bool:
    return before.reason == after.reason and before.last_seq + 1 == after.first_seq
