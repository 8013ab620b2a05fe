"""What drive sends to link. Samples get their numbers here; nothing in it ever waits.

Messages leave in order. While link is away and the pipe is full they are kept up to a bound; then samples are dropped,
which their numbers show, and captured items are dropped as a whole.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from roadloop_agent.ipc import Captured, FromDrive, Produced, Samples, encode_ipc
from roadloop_models.contract.streams import Stream

FLUSH_ROWS = 64
FLUSH_S = 0.2
BACKLOG_BYTES = 8 << 20
LATER_LIMIT = 1024


class Sender(Protocol):
    """The pipe."""

    def try_send(self, payload: bytes) -> bool:
        """Send without waiting; False where there is no room."""


@dataclass
class _Pending:
    first_seq: int
    since_s: float
    t_ms: list[int] = field(default_factory=list)
    rows: list[list[float]] = field(default_factory=list)


class Outbox:
    """Shared by all threads of drive."""

    def __init__(self, pipe: Sender, boot: int, clock: Callable[[], float]) -> None:
        self._pipe = pipe
        self._boot = boot
        self._clock = clock
        self._lock = threading.Lock()
        self._last_seq: dict[str, int] = {}
        self._pending: dict[str, _Pending] = {}
        self._backlog: deque[bytes] = deque()
        self._backlog_bytes = 0
        self._later: deque[Callable[[], None]] = deque()
        self.dropped_samples = 0
        self.dropped_items = 0

    def sample(self, stream: Stream, t_ms: int, row: list[float]) -> int:
        """Add a sample; its number."""
        with self._lock:
            seq = self._last_seq.get(stream.name, 0) + 1
            self._last_seq[stream.name] = seq
            pending = self._pending.get(stream.name)
            if pending is None:
                pending = self._pending[stream.name] = _Pending(seq, self._clock())
            pending.t_ms.append(t_ms)
            pending.rows.append(row)
            if len(pending.rows) >= FLUSH_ROWS or self._clock() - pending.since_s >= FLUSH_S:
                self._flush_stream(stream.name)
            return seq

    def later(self, report: Callable[[], None]) -> None:
        """Have this called by the next `flush`: telemetry that takes arithmetic is not made in an inference thread.

        After a long inference nothing of it is in the caches, and three small array operations cost it 50 us.
        """
        if len(self._later) < LATER_LIMIT:
            self._later.append(report)
        else:
            report()

    def send(self, message: FromDrive) -> None:
        """Send a message that must arrive in its place among the samples."""
        with self._lock:
            self._enqueue(encode_ipc(message))

    def try_send(self, message: FromDrive) -> bool:
        """Send a message where there is room for all that came before it; False where there is none now."""
        with self._lock:
            return self._drain() and self._pipe.try_send(encode_ipc(message))

    def offer(self, blocks: list[Captured]) -> bool:
        """Send a captured item where there is room for all that came before it; False where it is dropped."""
        with self._lock:
            for block in blocks:
                if not self._drain() or not self._pipe.try_send(encode_ipc(block)):
                    self.dropped_items += 1
                    return False
            return True

    def flush(self) -> None:
        """Send what has waited long enough."""
        self._make_reports()
        with self._lock:
            now_s = self._clock()
            for name in [name for name, pending in self._pending.items() if now_s - pending.since_s >= FLUSH_S]:
                self._flush_stream(name)
            self._drain()

    def say_produced(self, ended: bool = False) -> None:
        """Tell link the last numbers; everything numbered is sent or dropped before."""
        self._make_reports()
        with self._lock:
            for name in list(self._pending):
                self._flush_stream(name)
            self._enqueue(encode_ipc(Produced(boot=self._boot, last_seq=dict(self._last_seq), ended=ended)))

    @property
    def waits(self) -> bool:
        """Whether anything is to be sent by the next `flush`, or the one after it."""
        return bool(self._pending or self._backlog or self._later)

    def is_empty(self) -> bool:
        """Whether everything is in the pipe."""
        with self._lock:
            return self._drain()

    def _make_reports(self) -> None:
        while self._later:
            self._later.popleft()()

    def _flush_stream(self, name: str) -> None:
        pending = self._pending.pop(name)
        message = Samples(
            boot=self._boot, stream=name, first_seq=pending.first_seq, t_ms=pending.t_ms, rows=pending.rows
        )
        payload = encode_ipc(message)
        if self._backlog_bytes + len(payload) > BACKLOG_BYTES:
            self.dropped_samples += len(pending.rows)
            return
        self._enqueue(payload)

    def _enqueue(self, payload: bytes) -> None:
        self._backlog.append(payload)
        self._backlog_bytes += len(payload)
        self._drain()

    def _drain(self) -> bool:
        while self._backlog:
            if not self._pipe.try_send(self._backlog[0]):
                return False
            self._backlog_bytes -= len(self._backlog.popleft())
        return True
