"""The block server's decisions: which block goes to which vehicle next. Reads files; sends nothing; time is passed in.

Vehicles ask for blocks of files of the image repository; answers are best effort (QoS 0) and paced per vehicle, so one
that is fast or greedy cannot take the line from the others. What does not fit the bounded queue is forgotten: the
vehicle asks again.
"""

import hashlib
import re
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from roadloop_models.contract.channels import BLOCK_BYTES
from roadloop_models.contract.messages import FetchRequest, FileBlock

MAX_REQUEST_BLOCKS = 256
MAX_QUEUED_BLOCKS = 1024
"""Of one vehicle."""
MAX_METADATA_BYTES = 512 * 1024
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_BURST_S = 0.25
_PART = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,159}\Z")
_TARGET = re.compile(r"^([0-9a-f]{64})\..+\Z")


@dataclass(frozen=True)
class OutgoingBlock:
    """One answer: for the topic `down/file/{sha256}/{n}` of that vehicle."""

    vehicle: str
    sha256: str
    n: int
    block: FileBlock


@dataclass(frozen=True)
class _File:
    """A file of the repository. Metadata is held as it was when asked for: the next moment it may be replaced."""

    path: str
    sha256: str
    size_bytes: int
    source: Path | bytes

    def read(self, n: int) -> bytes:
        if isinstance(self.source, bytes):
            return self.source[n * BLOCK_BYTES : (n + 1) * BLOCK_BYTES]
        with self.source.open("rb") as file:
            file.seek(n * BLOCK_BYTES)
            return file.read(BLOCK_BYTES)


@dataclass
class _Queue:
    """What one vehicle waits for, and how much it may be sent now."""

    bytes_per_s: float
    allowance_bytes: float
    refilled_s: float
    blocks: OrderedDict[tuple[str, str, int], _File | None] = field(default_factory=OrderedDict)


class BlockServer:
    """Queues of all vehicles, served in turn."""

    def __init__(self, repository: Path, bytes_per_s: Callable[[str], int]) -> None:
        """`bytes_per_s` gives a vehicle's pace; it is asked when the vehicle's queue begins."""
        self._root = repository.resolve()
        self._bytes_per_s = bytes_per_s
        self._queues: OrderedDict[str, _Queue] = OrderedDict()

    def request(self, vehicle: str, request: FetchRequest, now_s: float) -> None:
        """Queue the blocks that are asked for; those that are waiting already are not queued twice."""
        file = find_file(self._root, request)
        queue = self._queues.get(vehicle)
        if queue is None:
            pace = float(self._bytes_per_s(vehicle))
            queue = self._queues[vehicle] = _Queue(pace, _burst(pace), now_s)
        if file is None:
            queue.blocks[(request.path, EMPTY_SHA256, 0)] = None
            return
        count = max(1, -(-file.size_bytes // BLOCK_BYTES))
        asked = 0
        for first, last in request.blocks:
            for n in range(first, min(last, count - 1) + 1):
                asked += 1
                if asked > MAX_REQUEST_BLOCKS or len(queue.blocks) >= MAX_QUEUED_BLOCKS:
                    return
                queue.blocks[(file.path, file.sha256, n)] = file

    def next_block(self, now_s: float) -> OutgoingBlock | None:
        """The next block that may be sent now, vehicles in turn; None where nothing is due."""
        for vehicle in list(self._queues):
            queue = self._queues[vehicle]
            _refill(queue, now_s)
            if not queue.blocks:
                # An idle vehicle is kept until its allowance is full, so that asking anew gives nobody a new burst.
                if queue.allowance_bytes >= _burst(queue.bytes_per_s):
                    del self._queues[vehicle]
                continue
            if queue.allowance_bytes <= 0:
                continue
            (path, sha256, n), file = queue.blocks.popitem(last=False)
            self._queues.move_to_end(vehicle)
            block = _block(path, file, n)
            queue.allowance_bytes -= len(block.data)
            return OutgoingBlock(vehicle, sha256, n, block)
        return None

    def wait_s(self, now_s: float) -> float | None:
        """How long until a block may be sent; None where nothing is queued."""
        waits = [
            max(0.0, queue.refilled_s + -queue.allowance_bytes / queue.bytes_per_s - now_s)
            for queue in self._queues.values()
            if queue.blocks
        ]
        return min(waits, default=None)


def find_file(root: Path, request: FetchRequest) -> _File | None:
    """The file that a request means, or None where the repository has none of that name.

    Only `metadata/<name>` and `targets/.../<sha256>.<name>` exist for this; no path leads out, not by `..`, not by a
    link. A target is announced under the hash in its name: whether its content still has it the vehicle will check.
    """
    parts = request.path.split("/")
    if not all(_PART.match(part) for part in parts):
        return None
    path = root.joinpath(*parts)
    try:
        if path.resolve(strict=True) != path or not path.is_file():
            return None
        if parts[0] == "metadata" and len(parts) == 2:
            return _metadata(path, request.path)
        named = _TARGET.match(parts[-1])
        if parts[0] != "targets" or len(parts) < 3 or named is None:
            return None
        return _File(request.path, named.group(1), path.stat().st_size, path)
    except OSError:
        return None


def _metadata(path: Path, name: str) -> _File | None:
    with path.open("rb") as file:
        content = file.read(MAX_METADATA_BYTES + 1)
    if len(content) > MAX_METADATA_BYTES:
        return None
    return _File(name, hashlib.sha256(content).hexdigest(), len(content), content)


def _block(path: str, file: _File | None, n: int) -> FileBlock:
    try:
        data = None if file is None else file.read(n)
    except OSError:
        data = None
    if file is None or data is None:
        return FileBlock(path=path, size_bytes=0, crc32=0, data=b"", missing=True)
    return FileBlock(path=path, size_bytes=file.size_bytes, crc32=zlib.crc32(data), data=data)


def _burst(bytes_per_s: float) -> float:
    return max(bytes_per_s * _BURST_S, 1.0)


def _refill(queue: _Queue, now_s: float) -> None:
    earned = (now_s - queue.refilled_s) * queue.bytes_per_s
    queue.allowance_bytes = min(queue.allowance_bytes + earned, _burst(queue.bytes_per_s))
    queue.refilled_s = now_s
