"""A TCP link that can be cut, stalled or slowed down, and counts what comes through it to the vehicle."""

import contextlib
import socket
import threading
import time

_STEP_BYTES = 4096


class Proxy:
    """Forwards connections of `port` to `target_port`. Usable as a context.

    `cuts`: at these sums of received bytes the connection ends, after exactly so many; nothing that was on its way then
    arrives. `bytes_per_s` slows the way to the vehicle; `stalled` stops it; `refusing` ends every connection at once,
    `refuse_after_cut` those after the next cut.
    """

    def __init__(self, target_port: int, cuts: tuple[int, ...] = ()) -> None:
        self._target_port = target_port
        self._cuts = list(cuts)
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self.received_bytes = 0
        self.connections = 0
        self.bytes_per_s: float | None = None
        self.stalled = threading.Event()
        self.refusing = self.refuse_after_cut = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.stalled.clear()
        self._listener.close()
        self.cut_now()

    def cut_at(self, *sums: int) -> None:
        """Cut when so many bytes have come in all."""
        with self._lock:
            self._cuts = list(sums)

    def cut_now(self) -> None:
        """End every connection."""
        with self._lock:
            for connection in self._open:
                _end(connection)
            self._open.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                vehicle, _ = self._listener.accept()
                self.connections += 1
                if self.refusing:
                    vehicle.close()
                    continue
                threading.Thread(target=self._connect, args=(vehicle,), daemon=True).start()

    def _connect(self, vehicle: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target_port))
        except OSError:
            vehicle.close()
            return
        with self._lock:
            self._open += [vehicle, server]
        threading.Thread(target=_pump, args=(vehicle, server), daemon=True).start()
        self._to_vehicle(server, vehicle)

    def _to_vehicle(self, server: socket.socket, vehicle: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                while self.stalled.is_set():
                    time.sleep(0.01)
                step_bytes = _STEP_BYTES if self.bytes_per_s is None else max(1, int(self.bytes_per_s / 50))
                data = server.recv(min(step_bytes, _STEP_BYTES))
                if not data:
                    break
                if self.bytes_per_s is not None:
                    time.sleep(len(data) / self.bytes_per_s)
                with self._lock:
                    room = self._cuts[0] - self.received_bytes if self._cuts else len(data)
                    data = data[:room]
                    self.received_bytes += len(data)
                    cut = bool(self._cuts) and self.received_bytes >= self._cuts[0]
                    if cut:
                        self._cuts.pop(0)
                        self.refusing = self.refuse_after_cut
                vehicle.sendall(data)
                if cut:
                    break
        # What was forwarded is still read: only the way to the vehicle ends, and the server hears of it.
        for connection, ways in ((vehicle, socket.SHUT_WR), (server, socket.SHUT_RDWR)):
            with contextlib.suppress(OSError):
                connection.shutdown(ways)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            with contextlib.suppress(OSError):
                target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
