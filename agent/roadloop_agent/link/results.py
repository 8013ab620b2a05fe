"""Decisions as newline JSON for other software on the vehicle: any number of readers, none of which holds up another.

Without I/O: lines go in, bytes for each reader come out. `local.py` has the sockets.
"""

from collections import deque
from typing import Any

import msgspec

from roadloop_agent.ipc import Decided

READER_BYTES = 256 * 1024
"""What waits for one reader; beyond it lines are dropped for this one alone."""
_encode = msgspec.json.Encoder().encode


def result_line(decided: Decided) -> bytes:
    """One line: slot, release, t_ms (wall time of the frame, ms) and decision, as `infer` writes it for the task."""
    line: dict[str, Any] = {
        "slot": decided.slot,
        "release": decided.release,
        "t_ms": decided.t_ms,
        "decision": decided.decision,
    }
    return _encode(line) + b"\n"


class Reader:
    """What one reader is still to get. A slow one loses lines, and is told how many by `{"dropped": n}`."""

    def __init__(self, limit_bytes: int = READER_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._lines: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._offset = 0
        self._dropped = 0

    def put(self, line: bytes) -> bool:
        """Add a line; False where it is dropped."""
        if self._dropped and self._waiting_bytes > self._limit_bytes // 2:
            self._dropped += 1  # so that it is told of one gap, not of a thousand small ones
            return False
        if self._waiting_bytes + len(line) > self._limit_bytes:
            self._dropped += 1
            return False
        self._tell_dropped()
        self._add(line)
        return True

    def miss(self, count: int) -> None:
        """Lines were lost before they reached this reader."""
        self._dropped += count

    def settle(self) -> None:
        """Once it has caught up it is told of what it missed, though nothing new comes."""
        if not self._lines:
            self._tell_dropped()

    def pending(self) -> bytes | memoryview:
        """What to send next; empty where there is nothing."""
        return memoryview(self._lines[0])[self._offset :] if self._lines else b""

    def sent(self, count: int) -> None:
        """`count` bytes of what is pending were sent."""
        self._offset += count
        self._waiting_bytes -= count
        if self._lines and self._offset >= len(self._lines[0]):
            self._lines.popleft()
            self._offset = 0

    def _tell_dropped(self) -> None:
        if self._dropped:
            self._add(_encode({"dropped": self._dropped}) + b"\n")
            self._dropped = 0

    def _add(self, line: bytes) -> None:
        self._lines.append(line)
        self._waiting_bytes += len(line)
