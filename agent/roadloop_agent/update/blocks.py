"""Which blocks of one file are here, asked for, or missing: pure, blocks and time in, requests out.

Blocks come by QoS 0 and in any order; what is lost is asked for again when nothing has come for a while. Nothing that
a block says is believed beyond its bounds: a size that is not the one expected ends the download at once, a block with
a wrong checksum, length or number is dropped like one that never came.
"""

import zlib
from collections.abc import Iterable

from tuf.api.exceptions import DownloadHTTPError, DownloadLengthMismatchError, LengthOrHashMismatchError

from roadloop_models.contract.channels import BLOCK_BYTES
from roadloop_models.contract.messages import FetchRequest, FileBlock
from roadloop_models.errors import FetchInterruptedError

FIRST_BLOCKS = 8
"""How many blocks are asked for where the size is not known yet."""
MAX_REQUEST_BLOCKS = 256
MAX_REQUEST_RANGES = 64
_SLOWEST_REPEAT = 8.0


def block_count(size_bytes: int) -> int:
    """How many blocks a file of that size has."""
    return -(-size_bytes // BLOCK_BYTES)


class Assembler:
    """The progress of one file.

    `sha256` and `size_bytes` are None where only the first answer tells them (metadata); then at most `max_bytes` are
    accepted, and an answer with another hash (the file was replaced meanwhile) begins the file anew. `listening`: the
    vehicle hears what is sent to all.
    """

    def __init__(
        self,
        path: str,
        *,
        now_s: float,
        sha256: str | None = None,
        size_bytes: int | None = None,
        max_bytes: int,
        have: Iterable[int] = (),
        listening: bool = False,
        window_blocks: int = 32,
        timeout_s: float = 4.0,
        give_up_s: float = 60.0,
    ) -> None:
        self.path = path
        self.sha256 = sha256
        self.size_bytes = size_bytes
        self.have = set(have)
        self._pinned = sha256 is not None
        self._listening = listening
        self._max_bytes = max_bytes
        self._window_blocks = min(window_blocks, MAX_REQUEST_BLOCKS, MAX_REQUEST_RANGES)
        self._timeout_s = timeout_s
        self._give_up_s = give_up_s
        self._asked: set[int] = set()
        self._silence_s = timeout_s
        self._interval_s = 0.0
        self._quiet_since_s = now_s
        self._heard_s = now_s

    @property
    def blocks(self) -> int:
        """How many blocks the file has; 0 while its size is not known."""
        return block_count(self.size_bytes) if self.size_bytes is not None else 0

    @property
    def done(self) -> bool:
        """Whether every block is here."""
        return self.size_bytes is not None and len(self.have) == self.blocks

    def request(self, now_s: float) -> FetchRequest | None:
        """What to ask for now; None where enough is under way. Raises FetchInterruptedError after a long silence."""
        if now_s - self._heard_s >= self._give_up_s:
            raise FetchInterruptedError(f"{self.path}: no block came for {now_s - self._heard_s:.0f} s")
        if self._asked and now_s - self._quiet_since_s >= self._silence_s:
            self._asked.clear()
            self._silence_s = min(2 * self._silence_s, _SLOWEST_REPEAT * self._timeout_s)
        if self.done or len(self._asked) > self._window_blocks // 2:
            return None
        if self.size_bytes is None:
            wanted = list(range(FIRST_BLOCKS)) if not self._asked else []
        else:
            room = self._window_blocks - len(self._asked)
            missing = (n for n in range(self.blocks) if n not in self.have and n not in self._asked)
            wanted = [n for n, _ in zip(missing, range(room), strict=False)]
        if not wanted:
            return None
        if not self._asked:
            self._quiet_since_s = now_s
        self._asked.update(wanted)
        return FetchRequest(path=self.path, sha256=self.sha256, blocks=_ranges(wanted), listening=self._listening)

    def repeat(self) -> None:
        """Ask again for all that is under way: the connection was lost, and with it what was asked or on its way."""
        self._asked.clear()
        self._silence_s = self._usual_silence_s()

    def wait_s(self, now_s: float) -> float:
        """How long there is nothing to do unless a block comes."""
        return max(0.0, min(self._quiet_since_s + self._silence_s, self._heard_s + self._give_up_s) - now_s)

    def accept(self, sha256: str, n: int, block: FileBlock, now_s: float) -> bytes | None:
        """The content of block `n` where it is new and sound, else None.

        Raises DownloadHTTPError(404) where the repository has no such file, DownloadLengthMismatchError where its size
        is not the expected one, LengthOrHashMismatchError where its content is not.
        """
        if block.path != self.path:
            return None
        if block.missing:
            raise DownloadHTTPError(f"{self.path}: the repository has no such file", 404)
        self._check(sha256, block)
        if n in self.have or n >= self.blocks or len(block.data) != self._length(n):
            return None
        if zlib.crc32(block.data) != block.crc32:
            return None
        self.have.add(n)
        self._asked.discard(n)
        self._interval_s += (now_s - self._heard_s - self._interval_s) / 4
        self._quiet_since_s = self._heard_s = now_s
        self._silence_s = self._usual_silence_s()
        return block.data

    def _check(self, sha256: str, block: FileBlock) -> None:
        if self._pinned:
            if sha256 != self.sha256:
                raise LengthOrHashMismatchError(f"{self.path}: the repository has content {sha256} in its place")
            if block.size_bytes != self.size_bytes:
                raise DownloadLengthMismatchError(
                    f"{self.path}: {block.size_bytes} bytes are announced, {self.size_bytes} were expected"
                )
            return
        if not 0 < block.size_bytes <= self._max_bytes:
            raise DownloadLengthMismatchError(
                f"{self.path}: {block.size_bytes} bytes are announced, at most {self._max_bytes} are read"
            )
        if (sha256, block.size_bytes) != (self.sha256, self.size_bytes):
            self.sha256, self.size_bytes = sha256, block.size_bytes
            self.have.clear()
            self._asked = {n for n in self._asked if n < self.blocks}

    def _usual_silence_s(self) -> float:
        """Blocks that come seldom, because thousands hear them, are no reason for thousands to ask again."""
        return min(max(self._timeout_s, 4 * self._interval_s), _SLOWEST_REPEAT * self._timeout_s)

    def _length(self, n: int) -> int:
        assert self.size_bytes is not None
        return min(BLOCK_BYTES, self.size_bytes - n * BLOCK_BYTES)


def _ranges(numbers: list[int]) -> tuple[tuple[int, int], ...]:
    """Ascending numbers as first..last."""
    ranges: list[tuple[int, int]] = []
    for n in numbers:
        if ranges and ranges[-1][1] == n - 1:
            ranges[-1] = (ranges[-1][0], n)
        else:
            ranges.append((n, n))
    return tuple(ranges)
