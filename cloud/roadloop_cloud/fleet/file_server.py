"""Files over HTTPS: what the block server serves, under the same certificates as the broker, in ranges.

On asyncio's streams, because whose director is asked for follows from the client's certificate, which ASGI servers keep
from the application; and because thousands of slow vehicles cost a coroutine each, not a thread. No request is
remembered, no folder listed, and every vehicle has its pace over all of its connections.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from threading import Event
from typing import Any

from roadloop_cloud.fleet import http_request
from roadloop_cloud.fleet.files import Files, ServedFile
from roadloop_cloud.fleet.http_request import Answer, Get
from roadloop_cloud.fleet.pace import Pace
from roadloop_cloud.workspace import IdentityFiles
from roadloop_models.errors import ConfigError

_CHUNK_BYTES = 8 * 1024
"""One TLS record: of a connection that breaks, at most this much came in vain."""
_LOOK_S = 0.25

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerLimits:
    """What one client, and all of them, may take."""

    connections: int = 2000
    connections_per_vehicle: int = 4
    handshake_timeout_s: float = 10.0
    head_timeout_s: float = 30.0
    """How long a connection may ask for nothing."""
    stall_timeout_s: float = 60.0
    """How long a client may take nothing of what it asked for."""


@dataclass
class _Client:
    """A vehicle with its open connections."""

    pace: Pace
    connections: int = 0


class FileServer:
    """See the module. `bytes_per_s` gives a vehicle's pace; it is asked when its first connection begins.

    `is_revoked` is asked for the serial number of the certificate behind every request.
    """

    def __init__(
        self,
        files: Files,
        bytes_per_s: Callable[[str], int],
        is_revoked: Callable[[int], bool],
        limits: ServerLimits = ServerLimits(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = files
        self._bytes_per_s = bytes_per_s
        self._is_revoked = is_revoked
        self._limits = limits
        self._clock = clock
        self._clients: dict[str, _Client] = {}
        self._connections = 0
        self.port: int | None = None
        """Set while it listens."""

    def run(self, host: str, port: int, identity: IdentityFiles, stop: Event) -> None:
        """Serve until `stop` is set. Raises ConfigError where the identity cannot be used, or the port is taken."""
        asyncio.run(self._run(host, port, identity, stop))

    async def _run(self, host: str, port: int, identity: IdentityFiles, stop: Event) -> None:
        try:
            server = await asyncio.start_server(
                self._serve,
                host,
                port,
                ssl=server_context(identity),
                ssl_handshake_timeout=self._limits.handshake_timeout_s,
                limit=http_request.MAX_HEAD_BYTES,
            )
        except OSError as error:
            raise ConfigError(f"roadloop.toml: files.port {port}: {error}") from error
        self.port = server.sockets[0].getsockname()[1]
        _log.info("serving files on %s:%d", host, self.port)
        try:
            while not stop.is_set():
                await asyncio.sleep(_LOOK_S)
        finally:
            server.close()
            self.port = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        certificate = writer.get_extra_info("peercert")
        vehicle, serial = _common_name(certificate), int(certificate["serialNumber"], 16)
        self._connections += 1
        try:
            client = await self._client(vehicle)
            client.connections += 1
            try:
                if (
                    self._connections > self._limits.connections
                    or client.connections > self._limits.connections_per_vehicle
                ):
                    writer.write(http_request.refusal(HTTPStatus.SERVICE_UNAVAILABLE).head)
                    await self._drain(writer)
                    return
                answered = True
                while answered:
                    answered = await self._answer(vehicle, serial, client.pace, reader, writer)
            finally:
                client.connections -= 1
                if not client.connections:
                    self._clients.pop(vehicle, None)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            _log.debug("%s: %s", vehicle, error)  # it went, or stood still: it asks again for what it lacks
            writer.transport.abort()
        except asyncio.CancelledError:
            writer.transport.abort()  # the server stops: nobody waits for a goodbye
            raise
        finally:
            self._connections -= 1
            writer.close()
            with suppress(OSError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), self._limits.handshake_timeout_s)

    async def _client(self, vehicle: str) -> _Client:
        if vehicle not in self._clients:
            pace = float(await asyncio.to_thread(self._bytes_per_s, vehicle))
            self._clients.setdefault(vehicle, _Client(Pace.full(pace, self._clock())))
        return self._clients[vehicle]

    async def _answer(
        self, vehicle: str, serial: int, pace: Pace, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; whether another may follow."""
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), self._limits.head_timeout_s)
        except asyncio.LimitOverrunError:
            request: Get | HTTPStatus = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        else:
            request = HTTPStatus.FORBIDDEN if self._is_revoked(serial) else http_request.parse(head)
        file: ServedFile | None = None
        if isinstance(request, HTTPStatus):
            answer = http_request.refusal(request)
        else:
            file = await asyncio.to_thread(self._files.find, vehicle, request.path)
            answer = (
                http_request.refusal(HTTPStatus.NOT_FOUND, request.keep_alive)
                if file is None
                else http_request.answer(request, file.size_bytes)
            )
            _log.info("%s %s: %d, %d-%d", vehicle, request.path, answer.status, answer.first, answer.end)
        writer.write(answer.head)
        await self._drain(writer)
        if file is not None:
            await self._send(file, answer, pace, writer)
        return answer.keep_alive

    async def _send(self, file: ServedFile, answer: Answer, pace: Pace, writer: asyncio.StreamWriter) -> None:
        first = answer.first
        while first < answer.end:
            pace.refill(self._clock())
            if not pace.may_send:
                await asyncio.sleep(pace.ready_s() - self._clock())
                continue
            data = file.read(first, min(_CHUNK_BYTES, answer.end - first))
            if not data:
                raise ConnectionAbortedError(f"{file.path} has become shorter")
            pace.spend(len(data))
            writer.write(data)
            await self._drain(writer)
            first += len(data)

    async def _drain(self, writer: asyncio.StreamWriter) -> None:
        await asyncio.wait_for(writer.drain(), self._limits.stall_timeout_s)


def server_context(identity: IdentityFiles) -> ssl.SSLContext:
    """TLS 1.2 or newer for clients with a certificate of the CA.

    Raises ConfigError naming the file that cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(identity.certificate, identity.key)
        context.load_verify_locations(identity.ca)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"{identity.certificate}, its key or {identity.ca}: {error}; 'roadloop up' makes identities"
        ) from error
    return context


def _common_name(certificate: Mapping[str, Any]) -> str:
    """Who the client is; the CA alone gives these names."""
    names = [value for group in certificate["subject"] for key, value in group if key == "commonName"]
    return str(names[0])
