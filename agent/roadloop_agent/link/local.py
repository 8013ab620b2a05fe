"""What link serves on the vehicle itself: decisions on a Unix socket, and Prometheus text on the loopback address.

One thread and one selector for all of it. Nothing here can hold up the link: what cannot be opened is tried again, and
readers that are too many or too slow lose, not the vehicle.
"""

import contextlib
import logging
import os
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from roadloop_agent.ipc import Decided, FromDrive, Hello, SlotHealth
from roadloop_agent.link.metrics import MAX_REQUEST_BYTES, Meter, answer
from roadloop_agent.link.results import Reader, result_line
from roadloop_agent.local_socket import unix_address

_LOG = logging.getLogger(__name__)
LOOPBACK = "127.0.0.1"
SOCKET_MODE = 0o660
MAX_READERS = 32
MAX_SCRAPES = 8
SCRAPE_S = 5.0
"""How long one HTTP exchange may take."""
_INBOX_LINES = 1024
_LOOP_S = 1.0
_REOPEN_S = 10.0


@dataclass
class _Scrape:
    """One HTTP exchange."""

    until_s: float
    request: bytes = b""
    response: bytes = b""


@dataclass
class _Door:
    """A listener that may not be there yet."""

    what: str
    listen: Callable[[], socket.socket]
    accept: Callable[[socket.socket], None]
    listener: socket.socket | None = None
    due_s: float = 0.0
    failing: bool = False


@dataclass
class _Inbox:
    """What came from drive since the last turn. Written by the pipe's thread, emptied by the server's."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    lines: deque[bytes] = field(default_factory=deque)
    missed: int = 0


class LocalServer:
    """See the module. `watch` tells drive whether anybody listens; False where it could not be told now."""

    def __init__(
        self,
        *,
        socket_path: Path,
        metrics_port: int | None,
        meter: Meter,
        watch: Callable[[bool], bool],
        clock: Callable[[], float],
    ) -> None:
        """`metrics_port`: None for no metrics, 0 for a port of the system's choice."""
        self._meter = meter
        self._watch = watch
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._inbox = _Inbox()
        self._readers: dict[socket.socket, Reader] = {}
        self._scrapes: dict[socket.socket, _Scrape] = {}
        self._told: bool | None = None
        self._lost_by_drive = (0, 0)  # (boot, how many it could not send)
        self._lines_dropped = 0
        self._doors = [_Door(f"results on {socket_path}", lambda: _listen_unix(socket_path), self._accept_reader)]
        self.metrics_port: int | None = None
        """Where the metrics are, once they are."""
        if metrics_port is not None:
            where = f"metrics on {LOOPBACK}:{metrics_port}"
            self._doors.append(_Door(where, lambda: self._listen_http(metrics_port), self._accept_scrape))

    # From the pipe's thread.

    def hear(self, message: FromDrive) -> None:
        """A message of drive; it takes what is its own. Never waits."""
        if isinstance(message, Decided):
            if self._readers:
                self._publish(message)
        elif isinstance(message, SlotHealth):
            self._meter.observe(message)
        elif isinstance(message, Hello):
            self._told = None  # a new drive, or one that has forgotten: it is told again
            os.eventfd_write(self._wake_fd, 1)

    def _publish(self, decided: Decided) -> None:
        line = result_line(decided)
        (boot, before), self._lost_by_drive = self._lost_by_drive, (decided.boot, decided.dropped)
        with self._inbox.lock:
            self._inbox.missed += decided.dropped - (before if boot == decided.boot else 0)
            if len(self._inbox.lines) >= _INBOX_LINES:
                self._inbox.missed += 1
                return
            self._inbox.lines.append(line)
            if len(self._inbox.lines) == 1:
                os.eventfd_write(self._wake_fd, 1)

    # The server's own thread.

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Serve until `stop`."""
        self._selector.register(self._wake_fd, selectors.EVENT_READ)
        try:
            while not stop.is_set():
                beat()
                self._open_doors()
                self._tell_drive()
                for key, events in self._selector.select(_LOOP_S):
                    self._serve(key.fileobj, events)
                self._hand_out()
                self._end_scrapes()
        finally:
            self._close()

    def _open_doors(self) -> None:
        now_s = self._clock()
        for door in self._doors:
            if door.listener is not None or now_s < door.due_s:
                continue
            try:
                door.listener = door.listen()
            except OSError as error:
                door.due_s = now_s + _REOPEN_S
                if not door.failing:
                    _LOG.error("%s: %s; trying again every %.0f s", door.what, error.strerror or error, _REOPEN_S)
                door.failing = True
                continue
            door.failing = False
            door.listener.setblocking(False)
            self._selector.register(door.listener, selectors.EVENT_READ, door)

    def _listen_http(self, port: int) -> socket.socket:
        listener = socket.create_server((LOOPBACK, port), backlog=MAX_SCRAPES)
        self.metrics_port = listener.getsockname()[1]
        return listener

    def _tell_drive(self) -> None:
        listened = bool(self._readers)
        if self._told != listened and self._watch(listened):
            self._told = listened

    def _serve(self, who: object, events: int) -> None:
        if who == self._wake_fd:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake_fd)
            return
        assert isinstance(who, socket.socket)
        for door in self._doors:
            if who is door.listener:
                with contextlib.suppress(OSError):
                    door.accept(who)
                return
        try:
            if who in self._readers:
                self._serve_reader(who, events)
            elif who in self._scrapes:
                self._serve_scrape(who)
        except OSError:
            self._forget(who)

    def _accept_reader(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        if len(self._readers) >= MAX_READERS:
            connection.close()
            return
        connection.setblocking(False)
        self._readers[connection] = Reader()
        self._selector.register(connection, selectors.EVENT_READ)

    def _accept_scrape(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        if len(self._scrapes) >= MAX_SCRAPES:
            connection.close()
            return
        connection.setblocking(False)
        self._scrapes[connection] = _Scrape(self._clock() + SCRAPE_S)
        self._selector.register(connection, selectors.EVENT_READ)

    def _serve_reader(self, connection: socket.socket, events: int) -> None:
        if events & selectors.EVENT_READ and not connection.recv(4096):
            self._forget(connection)  # readers have nothing to say; the end of file says that they are gone
            return
        if events & selectors.EVENT_WRITE:
            self._write(connection, self._readers[connection])

    def _write(self, connection: socket.socket, reader: Reader) -> None:
        with contextlib.suppress(BlockingIOError):
            while pending := reader.pending():
                reader.sent(connection.send(pending))
            reader.settle()
            while pending := reader.pending():
                reader.sent(connection.send(pending))
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if reader.pending() else 0)
        if self._selector.get_key(connection).events != wanted:
            self._selector.modify(connection, wanted)

    def _hand_out(self) -> None:
        with self._inbox.lock:
            lines, self._inbox.lines = self._inbox.lines, deque()
            missed, self._inbox.missed = self._inbox.missed, 0
        if not lines and not missed:
            return
        for connection, reader in list(self._readers.items()):
            reader.miss(missed)
            self._lines_dropped += missed + sum(not reader.put(line) for line in lines)
            try:
                self._write(connection, reader)
            except OSError:
                self._forget(connection)

    def _serve_scrape(self, connection: socket.socket) -> None:
        scrape = self._scrapes[connection]
        if not scrape.response:
            received = connection.recv(MAX_REQUEST_BYTES)
            scrape.request = (scrape.request + received)[:MAX_REQUEST_BYTES]
            response = answer(scrape.request, lambda: self._meter.text(len(self._readers), self._lines_dropped))
            if response is None and received:
                return
            scrape.response = response or b""
            self._selector.modify(connection, selectors.EVENT_WRITE)
        if scrape.response:
            scrape.response = scrape.response[connection.send(scrape.response) :]
        if not scrape.response:
            self._forget(connection)

    def _end_scrapes(self) -> None:
        now_s = self._clock()
        for connection in [each for each, scrape in self._scrapes.items() if now_s >= scrape.until_s]:
            self._forget(connection)

    def _forget(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        self._readers.pop(connection, None)
        self._scrapes.pop(connection, None)
        connection.close()

    def _close(self) -> None:
        for connection in [*self._readers, *self._scrapes]:
            self._forget(connection)
        for door in self._doors:
            if door.listener is not None:
                door.listener.close()
        self._selector.close()


def _listen_unix(path: Path) -> socket.socket:
    """A listener at that path; what an earlier link left there goes. Nobody connects before it has its mode."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        path.unlink(missing_ok=True)
        with unix_address(path) as address:
            listener.bind(address)
        path.chmod(SOCKET_MODE)
        listener.listen(MAX_READERS)
    except OSError:
        listener.close()
        raise
    return listener
