"""What the link process works with: the parts that `Link` is given, as it sees them."""

from typing import Any, Protocol

from roadloop_agent.ipc import Hello, ShadowSums, SlotHealth, Switched
from roadloop_agent.link.session import Publish
from roadloop_agent.link.spool import CursorEffect, SpoolStats
from roadloop_models.contract.messages import Cursor, Desired, FileBlock


class Updates(Protocol):
    """The update service, as link sees it. None of these waits for anything."""

    def on_desired(self, desired: Desired) -> None:
        """The cloud's newest wish."""

    def on_connected(self) -> None:
        """There is a new connection."""

    def on_block(self, sha256: str, n: int, block: FileBlock) -> None:
        """Block `n` of the content with that hash has come."""

    def on_hello(self, hello: Hello) -> None:
        """Drive has started, or link has found it running."""

    def on_health(self, health: SlotHealth) -> None:
        """How a slot does."""

    def on_switched(self, switched: Switched) -> None:
        """Drive's answer to a switch."""

    def on_shadow(self, sums: ShadowSums) -> None:
        """How a candidate does in a slot's shadow."""


class Transport(Protocol):
    """The connection, as the owner uses it."""

    def connect(self, will: Publish) -> None:
        """Begin a connection; an event follows."""

    def publish(self, message: Publish) -> None:
        """Publish while connected."""

    def subscribe(self, pattern: str) -> None:
        """Receive a filter as well while connected."""

    def unsubscribe(self, pattern: str) -> None:
        """Receive it no more."""

    def drop(self) -> None:
        """Close the connection at once."""

    def close(self, timeout_s: float) -> None:
        """Close it when what was published is acknowledged."""


class Ledger(Protocol):
    """The part of the spool that the owner uses."""

    def apply_cursor(self, cursor: Cursor, now_s: float) -> CursorEffect:
        """Take the cloud's word. Raises DiskFullError."""

    def stats(self) -> SpoolStats:
        """What is held now."""

    def tend(self, now_s: float) -> None:
        """A small part of what has to be done some time. Raises DiskFullError."""


class StatusStore(Protocol):
    """Where what `status` shows is kept."""

    def put(self, key: str, value: Any) -> None:
        """Remember a value."""
