"""The block server's decisions: which block goes to which vehicle next. Reads files; sends nothing; time is passed in.

Answers are best effort (QoS 0) and paced per vehicle, so one that is fast or greedy cannot take the line from the
others. What does not fit the bounded queue is forgotten: the vehicle asks again. What several vehicles wait for goes to
all of them once (gathering.py).
"""

import hashlib
import heapq
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from roadloop_cloud.fleet.files import Files, ServedFile
from roadloop_cloud.fleet.gathering import Gathering
from roadloop_cloud.fleet.pace import Pace
from roadloop_models.contract.channels import BLOCK_BYTES, FLEET
from roadloop_models.contract.messages import FetchRequest, FileBlock

MAX_REQUEST_BLOCKS = 256
MAX_QUEUED_BLOCKS = 1024
"""Of one vehicle."""
TOGETHER_BYTES_PER_S = 64 * 1024 * 1024
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class OutgoingBlock:
    """One answer: for `down/file/{sha256}/{n}` of that vehicle, or where `vehicle` is FLEET for `_all/file/…`."""

    vehicle: str
    sha256: str
    n: int
    block: FileBlock


@dataclass
class _Queue:
    """What one vehicle waits for, and how much it may be sent now. `ready`: it stands among those whose turn comes."""

    pace: Pace
    ready: bool = False
    blocks: OrderedDict[tuple[str, str, int], ServedFile | None] = field(default_factory=OrderedDict)


class BlockServer:
    """Queues of all vehicles, served in turn."""

    def __init__(
        self, files: Files, bytes_per_s: Callable[[str], int], together_bytes_per_s: float = TOGETHER_BYTES_PER_S
    ) -> None:
        """`bytes_per_s` gives a vehicle's pace; it is asked when the vehicle's queue begins. `together_bytes_per_s`:
        what all who hear one block together may be sent."""
        self._files = files
        self._bytes_per_s = bytes_per_s
        self._gathering = Gathering(together_bytes_per_s)
        self._queues: dict[str, _Queue] = {}
        self._turns: deque[str] = deque()
        self._later: list[tuple[float, str]] = []
        """A heap: when to look at a vehicle again that has used up its allowance, or wants nothing any more."""

    def request(self, vehicle: str, request: FetchRequest, now_s: float) -> None:
        """Queue the blocks that are asked for; those that are waiting already are not queued twice."""
        file = self._files.find(vehicle, request.path)
        queue = self._queues.get(vehicle)
        if queue is None:
            queue = self._queues[vehicle] = _Queue(Pace.full(float(self._bytes_per_s(vehicle)), now_s))
        if file is None and len(queue.blocks) < MAX_QUEUED_BLOCKS:
            queue.blocks[(request.path, EMPTY_SHA256, 0)] = None
        elif file is not None:
            together = request.listening and file.for_all
            for n in _numbers(request, file):
                if together and self._gathering.join(vehicle, queue.pace.bytes_per_s, file, n, now_s):
                    continue
                if len(queue.blocks) >= MAX_QUEUED_BLOCKS:
                    break
                queue.blocks[(file.path, file.sha256, n)] = file
        self._place(vehicle, queue, now_s)

    def next_block(self, now_s: float) -> OutgoingBlock | None:
        """The next block that may be sent now: what many wait for, then vehicles in turn; None where nothing is due."""
        while (gathered := self._gathering.take(now_s)) is not None:
            file, n = gathered.file, gathered.n
            if len(gathered.vehicles) > 1:
                return OutgoingBlock(FLEET, file.sha256, n, _block(file.path, file, n))
            (vehicle,) = gathered.vehicles  # nobody else came: at its own pace
            queue = self._queues.get(vehicle)
            if queue is None:
                queue = self._queues[vehicle] = _Queue(Pace.full(float(self._bytes_per_s(vehicle)), now_s))
            queue.blocks[(file.path, file.sha256, n)] = file
            self._place(vehicle, queue, now_s)
        for vehicle in self._due(now_s):
            if (waiting := self._queues.get(vehicle)) is not None:
                self._place(vehicle, waiting, now_s)
        if not self._turns:
            return None
        vehicle = self._turns.popleft()
        queue = self._queues[vehicle]
        queue.ready = False
        (path, sha256, n), found = queue.blocks.popitem(last=False)
        block = _block(path, found, n)
        queue.pace.refill(now_s)
        queue.pace.spend(len(block.data))
        self._place(vehicle, queue, now_s)
        return OutgoingBlock(vehicle, sha256, n, block)

    def wait_s(self, now_s: float) -> float | None:
        """How long until a block may be sent; None where nothing is queued."""
        if self._turns:
            return 0.0
        gathered_s = self._gathering.wait_s(now_s)
        later_s = max(0.0, self._later[0][0] - now_s) if self._later else None
        return min((wait_s for wait_s in (gathered_s, later_s) if wait_s is not None), default=None)

    def _due(self, now_s: float) -> list[str]:
        due = []
        while self._later and self._later[0][0] <= now_s:
            due.append(heapq.heappop(self._later)[1])
        return due

    def _place(self, vehicle: str, queue: _Queue, now_s: float) -> None:
        """Where the vehicle stands now: among those whose turn comes, among those looked at later, or forgotten."""
        if queue.ready:
            return
        queue.pace.refill(now_s)
        if queue.blocks:
            queue.ready = queue.pace.may_send
            if queue.ready:
                self._turns.append(vehicle)
            else:
                heapq.heappush(self._later, (queue.pace.ready_s(), vehicle))
        elif queue.pace.full_s() > now_s:
            # An idle vehicle is kept until its allowance is full, so that asking anew gives nobody a new burst.
            heapq.heappush(self._later, (queue.pace.full_s(), vehicle))
        else:
            del self._queues[vehicle]


def _numbers(request: FetchRequest, file: ServedFile) -> list[int]:
    """The numbers of the blocks that are asked for and exist; as many as one request may name."""
    last_block = max(1, -(-file.size_bytes // BLOCK_BYTES)) - 1
    numbers: list[int] = []
    for first, last in request.blocks:
        room = MAX_REQUEST_BLOCKS - len(numbers)
        numbers += range(first, min(last, last_block, first + room - 1) + 1)
    return numbers


def _block(path: str, file: ServedFile | None, n: int) -> FileBlock:
    try:
        data = None if file is None else file.read(n * BLOCK_BYTES, BLOCK_BYTES)
    except OSError:
        data = None
    if file is None or data is None:
        return FileBlock(path=path, size_bytes=0, crc32=0, data=b"", missing=True)
    return FileBlock(path=path, size_bytes=file.size_bytes, crc32=zlib.crc32(data), data=data)
