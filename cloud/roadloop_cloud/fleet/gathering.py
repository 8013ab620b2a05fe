"""Which blocks go to all who wait for them, once: pure, requests and time in, decisions out.

Whoever asks first is answered alone and at once. While that is fresh, others who want the same block are gathered: the
block goes to all of them together, and each time it was sent the next gathering takes twice as long. So vehicles that
come one after the other within seconds take a handful of sendings, however many they are, and one that comes alone
waits for nobody.
"""

from collections import Counter
from dataclasses import dataclass, field

from roadloop_cloud.fleet.files import ServedFile
from roadloop_cloud.fleet.pace import Pace
from roadloop_models.contract.channels import BLOCK_BYTES

GATHER_S = 0.5
LONGEST_GATHER_S = 4.0
PATIENCE_S = 30.0
"""Vehicles give a file up of which no block came for a minute."""
FRESH_S = 30.0
"""How long a block counts as sent not long ago."""
MAX_WAITING_BLOCKS = 1024
"""Of one vehicle."""
_LEAST_BYTES_PER_S = 1024.0


@dataclass(frozen=True)
class Gathered:
    """A block that is due, and who waits for it."""

    file: ServedFile
    n: int
    vehicles: tuple[str, ...]


@dataclass
class _Block:
    """`sole`: to whom it was sent, where that was one vehicle."""

    sent_s: float
    sole: str | None
    sendings: int = 1
    since_s: float = 0.0
    waiting: dict[str, float] = field(default_factory=dict)
    """Vehicle -> its pace, bytes per second."""


@dataclass
class _Content:
    file: ServedFile
    pace: Pace
    touched_s: float
    blocks: dict[int, _Block] = field(default_factory=dict)


class Gathering:
    """Blocks that were asked for lately. `bytes_per_s`: what all who hear a block together may be sent a second."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._contents: dict[tuple[str, str], _Content] = {}
        self._waits_for: Counter[str] = Counter()

    def join(self, vehicle: str, pace: float, file: ServedFile, n: int, now_s: float) -> bool:
        """Whether the vehicle's wish waits for others; False: it is to be answered alone, now."""
        key = file.path, file.sha256
        content = self._contents.get(key)
        if content is None:
            content = self._contents[key] = _Content(file, Pace.full(self._bytes_per_s, now_s), now_s)
        content.touched_s = now_s
        block = content.blocks.get(n)
        if block is None or (not block.waiting and (block.sole == vehicle or now_s - block.sent_s > FRESH_S)):
            content.blocks[n] = _Block(sent_s=now_s, sole=vehicle)
            return False
        if vehicle not in block.waiting and self._waits_for[vehicle] < MAX_WAITING_BLOCKS:
            if not block.waiting:
                block.since_s = now_s
            block.waiting[vehicle] = pace
            self._waits_for[vehicle] += 1
        return True

    def take(self, now_s: float) -> Gathered | None:
        """The block that has been due for longest, which is sent now; None where none is."""
        for key, content in list(self._contents.items()):
            found = _next(content)
            if found is None:
                if now_s - content.touched_s > FRESH_S:
                    del self._contents[key]
                continue
            due_s, n = found
            content.pace.refill(now_s)
            if due_s > now_s or not content.pace.may_send:
                continue
            return self._send(content, n, now_s)
        return None

    def wait_s(self, now_s: float) -> float | None:
        """How long until a block is due; None where nobody waits."""
        due = [
            max(found[0], content.pace.ready_s()) for content in self._contents.values() if (found := _next(content))
        ]
        return max(0.0, min(due) - now_s) if due else None

    def _send(self, content: _Content, n: int, now_s: float) -> Gathered:
        block = content.blocks[n]
        vehicles = tuple(block.waiting)
        content.pace.bytes_per_s = max(
            _LEAST_BYTES_PER_S, min(*block.waiting.values(), self._bytes_per_s / len(vehicles))
        )
        content.pace.refill(now_s)  # what was saved up at another pace does not count
        if len(vehicles) > 1:
            content.pace.spend(min(BLOCK_BYTES, content.file.size_bytes - n * BLOCK_BYTES))
        content.touched_s = block.sent_s = now_s
        block.sole = vehicles[0] if len(vehicles) == 1 else None
        block.sendings += 1
        block.waiting.clear()
        self._waits_for.subtract(vehicles)
        for vehicle in vehicles:
            if not self._waits_for[vehicle]:
                del self._waits_for[vehicle]
        return Gathered(content.file, n, vehicles)


def _next(content: _Content) -> tuple[float, int] | None:
    """(when it is due, number) of the block that is due first."""
    whole_s = content.file.size_bytes / content.pace.bytes_per_s
    longest_s = min(max(LONGEST_GATHER_S, whole_s), PATIENCE_S)  # nothing comes twice before everything came once
    return min(
        (
            (max(block.since_s + GATHER_S, block.sent_s + min(GATHER_S * 2.0**block.sendings, longest_s)), n)
            for n, block in content.blocks.items()
            if block.waiting
        ),
        default=None,
    )
