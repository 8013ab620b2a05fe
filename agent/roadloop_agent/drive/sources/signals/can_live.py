"""A live CAN bus through python-can: only listened to, and only the ids that are used leave the kernel."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from roadloop_agent.drive.sources.signals.board import Updates
from roadloop_agent.drive.sources.signals.dbc import EXTENDED, Decoder, UsedSignal
from roadloop_agent.signals_config import CanFeed
from roadloop_models.errors import ConfigError, RetryLaterError, RoadloopError

if TYPE_CHECKING:
    from can import Message

_BUS_OFF = 0x40
"""Linux' CAN_ERR_BUSOFF, in the id of an error frame."""
_STANDARD_MASK, _EXTENDED_MASK = 0x7FF, 0x1FFFFFFF


class Bus(Protocol):
    """The part of python-can's BusABC that is used."""

    def recv(self, timeout: float | None = None) -> "Message | None":
        """The next frame that passes the filters; None where none came in time."""

    def shutdown(self) -> None:
        """Give it back."""


OpenBus = Callable[[CanFeed, Sequence[int]], Bus]
"""From the table and the used ids (with EXTENDED where they have 29 bits) to a bus that lets only those through."""


def open_bus(feed: CanFeed, keys: Sequence[int]) -> Bus:
    """python-can's bus. Raises RetryLaterError where the interface is not there or down, ConfigError where it never is
    going to be."""
    try:
        import can
    except ImportError as error:
        raise ConfigError(f"a CAN feed needs python-can: pip install 'roadloop[can]' ({error})") from error
    filters: list[can.typechecking.CanFilter] = [
        {
            "can_id": key & ~EXTENDED,
            "can_mask": _EXTENDED_MASK if key & EXTENDED else _STANDARD_MASK,
            "extended": bool(key & EXTENDED),
        }
        for key in keys
    ]
    try:
        return can.Bus(channel=feed.channel, interface=feed.interface, fd=feed.fd, can_filters=filters)
    except can.CanInterfaceNotImplementedError as error:
        raise ConfigError(f"interface '{feed.interface}': {error}") from error
    except (can.CanError, OSError) as error:
        raise RetryLaterError(f"{feed.channel}: {error}; is the interface there and up (ip link)?") from error


class CanConnection:
    """A bus that is open."""

    def __init__(self, feed: CanFeed, used: Sequence[UsedSignal], open_bus: OpenBus) -> None:
        """Raises RetryLaterError, ConfigError as `open_bus`."""
        self.error_frames = 0
        self.decoder = Decoder(used)
        self._channel = feed.channel
        self._told = 0
        self._bus = open_bus(feed, self.decoder.keys)

    def read(self, timeout_s: float) -> Updates:
        """What one frame says; nothing where none came in time. Raises RetryLaterError where the bus is off or gone."""
        try:
            message = self._bus.recv(timeout_s)
        except Exception as error:  # (what a backend raises is its own affair: python-can's errors, OSError, ctypes')
            raise RetryLaterError(f"{self._channel}: {error}") from error
        if message is None or message.is_remote_frame:
            return ()
        if message.is_error_frame:
            self.error_frames += 1
            if message.arbitration_id & _BUS_OFF:
                raise RetryLaterError(f"{self._channel}: bus off, after {self.error_frames} error frames")
            return ()
        key = message.arbitration_id | (EXTENDED if message.is_extended_id else 0)
        return self.decoder.decode(key, bytes(message.data))

    def troubles(self) -> list[RoadloopError]:
        """Error frames since the last time, and messages that are not as the DBC has them."""
        found: list[RoadloopError] = [ConfigError(f"{self._channel}: {text}") for text in self.decoder.mismatches()]
        new, self._told = self.error_frames - self._told, self.error_frames
        return [*found, RetryLaterError(f"{self._channel}: {new} error frames")] if new else found

    def close(self) -> None:
        """Give the bus back."""
        self._bus.shutdown()
