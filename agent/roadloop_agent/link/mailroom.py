"""What reaches the owner of the link process: events in a queue, posted by whoever has something to say."""

import logging
import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from roadloop_agent.ipc import Hello, ShadowWish, Switch, Watch, encode_ipc
from roadloop_agent.link.mqtt import Acked, Connected, Disconnected, Received
from roadloop_models.contract.messages import ErrorInfo, FetchRequest, ReleaseRef, ReportedSlot

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class SpoolChanged:
    """There is more to send."""


@dataclass(frozen=True)
class FromUpdates:
    """The update service wants this fetched, or says this of the slots."""

    fetch: FetchRequest | None = None
    slots: Mapping[str, ReportedSlot] | None = None


@dataclass(frozen=True)
class DirectorSaid:
    """What came of asking the director: the newest version that was verified, and what is wrong."""

    version: int
    error: ErrorInfo | None


@dataclass(frozen=True)
class Hear:
    """The update service waits for this content; None: for none."""

    sha256: str | None


@dataclass(frozen=True)
class FilesCame:
    """So many bytes of files came beside this connection, or this is to be shown of how files come."""

    size_bytes: int = 0
    view: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class DriveSaid:
    """Drive has introduced itself."""

    hello: Hello


@dataclass(frozen=True)
class TroubleChanged:
    """A slot has stopped deciding, or begun again."""


Event: TypeAlias = (
    Connected
    | Disconnected
    | Received
    | Acked
    | SpoolChanged
    | FromUpdates
    | DirectorSaid
    | Hear
    | FilesCame
    | DriveSaid
    | TroubleChanged
)


class ToDrive(Protocol):
    """The part of the pipe that is written to."""

    def try_send(self, payload: bytes) -> bool:
        """Send one encoded message; False where there is no room for it."""


class Mailroom:
    """What other threads may call: they post to the owner's queue, or write to drive."""

    def __init__(self, pipe: ToDrive, events: "queue.SimpleQueue[Event] | None" = None) -> None:
        self._pipe = pipe
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue() if events is None else events
        self._spool_posted = threading.Event()

    def post(self, event: Event) -> None:
        """Hand an event to the owner."""
        self.events.put(event)

    def spool_changed(self) -> None:
        """There is more to send. Said once until the owner has heard it."""
        if not self._spool_posted.is_set():
            self._spool_posted.set()
            self.events.put(SpoolChanged())

    def heard(self) -> None:
        """The owner is about to look at the spool."""
        self._spool_posted.clear()

    def send_fetch(self, request: FetchRequest) -> None:
        """Ask the cloud for blocks; lost without a connection."""
        self.events.put(FromUpdates(fetch=request))

    def hear(self, sha256: str | None) -> None:
        """Hear this content where it is sent to all, or none. What is asked for afterwards finds it so."""
        self.events.put(Hear(sha256))

    def files_came(self, size_bytes: int) -> None:
        """Bytes of files came by HTTPS: they count like those of messages."""
        self.events.put(FilesCame(size_bytes=size_bytes))

    def show_files(self, view: Mapping[str, Any]) -> None:
        """How files come, for `status`."""
        self.events.put(FilesCame(view=view))

    def report(self, slots: Mapping[str, ReportedSlot]) -> None:
        """What the update service says of the slots."""
        self.events.put(FromUpdates(slots=slots))

    def director(self, version: int, error: ErrorInfo | None) -> None:
        """What came of asking the director."""
        self.events.put(DirectorSaid(version, error))

    def switch(self, slot: str, ref: ReleaseRef, bundle_dir: str) -> None:
        """Tell drive to run another version. Where the pipe is full the update machine asks again."""
        if not self._pipe.try_send(encode_ipc(Switch(slot=slot, ref=ref, bundle_dir=bundle_dir))):
            _LOG.warning("slot %s: the pipe to drive is full", slot)

    def shadow(self, wish: ShadowWish) -> None:
        """Tell drive whom to run in a slot's shadow. Where the pipe is full it is asked again."""
        if not self._pipe.try_send(encode_ipc(wish)):
            _LOG.warning("slot %s: the pipe to drive is full", wish.slot)

    def watch(self, on: bool) -> bool:
        """Tell drive whether anybody listens to decisions; False where the pipe is full."""
        return self._pipe.try_send(encode_ipc(Watch(on=on)))
