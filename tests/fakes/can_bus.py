"""A CAN bus with faults on order: python-can's bus as `CanConnection` uses it; the test is the other side."""

import queue
from collections.abc import Callable, Sequence

from can import CanOperationError, Message

from roadloop_agent.drive.sources.signals.dbc import EXTENDED
from roadloop_agent.signals_config import CanFeed
from roadloop_models.errors import RetryLaterError

CAN_ERR_BUSOFF, CAN_ERR_CRTL = 0x40, 0x04


class FakeBus:
    """One opening of the bus. Frames outside the filters do not come through, as in the kernel."""

    def __init__(self, keys: Sequence[int]) -> None:
        self.keys = frozenset(keys)
        self.closed = False
        self._coming: queue.Queue[Message | Exception] = queue.Queue()

    def recv(self, timeout: float | None = None) -> Message | None:
        """The next frame or fault."""
        try:
            message = self._coming.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(message, Exception):
            raise message
        return message

    def shutdown(self) -> None:
        """Closed."""
        self.closed = True

    def sends(self, key: int, data: bytes) -> None:
        """Another node sends a frame."""
        if key in self.keys:
            self._coming.put(
                Message(
                    arbitration_id=key & ~EXTENDED, is_extended_id=bool(key & EXTENDED), data=data, is_fd=len(data) > 8
                )
            )

    def has_error_frame(self, kind: int) -> None:
        """The controller reports an error: CAN_ERR_… of Linux."""
        self._coming.put(Message(arbitration_id=kind, is_error_frame=True, is_extended_id=False, data=bytes(8)))

    def goes_down(self) -> None:
        """`ip link set can0 down`."""
        self._coming.put(CanOperationError("Failed to receive: Network is down", 100))


class FakeInterface:
    """Opens `FakeBus`es; `up` says whether it can be opened."""

    def __init__(self) -> None:
        self.up = True
        self.buses: list[FakeBus] = []
        self.opened: Callable[[FakeBus], None] = lambda bus: None

    def open(self, feed: CanFeed, keys: Sequence[int]) -> FakeBus:
        """As `can_live.open_bus`."""
        if not self.up:
            raise RetryLaterError(f"{feed.channel}: No such device; is the interface there and up (ip link)?")
        bus = FakeBus(keys)
        self.buses.append(bus)
        self.opened(bus)
        return bus
