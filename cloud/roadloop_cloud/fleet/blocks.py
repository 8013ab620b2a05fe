"""The block server's decisions: which block goes to which vehicle next. Reads files; sends nothing; time is passed in.

Vehicles ask for blocks of files of the image repository; answers are best effort (QoS 0) and paced per vehicle, so one
that is fast or greedy cannot take the line from the others. What does not fit the bounded queue is forgotten: the
vehicle asks again.
"""

import hashlib
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from roadloop_cloud.fleet.files import Files, ServedFile
from roadloop_models.contract.channels import BLOCK_BYTES
from roadloop_models.contract.messages import FetchRequest, FileBlock

MAX_REQUEST_BLOCKS = 256
MAX_QUEUED_BLOCKS = 1024
"""Of one vehicle."""
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_BURST_S = 0.25


@dataclass(frozen=True)
class OutgoingBlock:
    """One answer: for the topic `down/file/{sha256}/{n}` of that vehicle."""

    vehicle: str
    sha256: str
    n: int
    block: FileBlock


@dataclass
class _Queue:
    """What one vehicle waits for, and how much it may be sent now."""

    bytes_per_s: float
    allowance_bytes: float
    refilled_s: float
    blocks: OrderedDict[tuple[str, str, int], ServedFile | None] = field(default_factory=OrderedDict)


class BlockServer:
    """Queues of all vehicles, served in turn."""

    def __init__(self, files: Files, bytes_per_s: Callable[[str], int]) -> None:
        """`bytes_per_s` gives a vehicle's pace; it is asked when the vehicle's queue begins."""
        self._files = files
        self._bytes_per_s = bytes_per_s
        self._queues: OrderedDict[str, _Queue] = OrderedDict()

    def request(self, vehicle: str, request: FetchRequest, now_s: float) -> None:
        """Queue the blocks that are asked for; those that are waiting already are not queued twice."""
        file = self._files.find(vehicle, request.path)
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


def _block(path: str, file: ServedFile | None, n: int) -> FileBlock:
    try:
        data = None if file is None else file.read(n * BLOCK_BYTES, BLOCK_BYTES)
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
