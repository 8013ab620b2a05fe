"""paho for thousands of connections in one thread, and what a scenario does to each: no coverage, stalls, delays.

The same client library, TLS and contract as link/mqtt.py; there every vehicle has a thread of paho's for itself. Here
one loop (loop.py) reads and writes for all, and only connecting, which blocks, is done by a few other threads.
"""

import contextlib
import socket
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from roadloop_agent.link.mqtt import (
    DEFAULT_RECEIVE_MAXIMUM,
    MAX_IN_FLIGHT,
    Acked,
    Connected,
    Disconnected,
    Endpoint,
    MqttEvent,
    Received,
    connect,
)
from roadloop_agent.link.session import Publish
from roadloop_agent.sim.loop import Loop

_NO_COVERAGE_S = 0.2


class TwinMqtt:
    """A link.process.Transport. `covered` False: every attempt to connect fails. `late` gives a message's delay."""

    def __init__(
        self,
        endpoint: Endpoint,
        tls: Callable[[], ssl.SSLContext],
        filters: Sequence[tuple[str, int]],
        post: Callable[[MqttEvent], None],
        *,
        loop: Loop,
        connectors: Executor,
        late: Callable[[], float],
    ) -> None:
        """`tls` is called where a connection is made: in one of the connectors."""
        self.covered = True
        self.stalled = False
        self._endpoint = endpoint
        self._tls = tls
        self._filters = list(filters)
        self._post = post
        self._loop = loop
        self._connectors = connectors
        self._late = late
        self._client: paho.Client | None = None
        self._descriptor: int | None = None
        self._tokens: dict[int, int] = {}

    # What link asks for; in the loop's thread.

    def connect(self, will: Publish) -> None:
        """Begin a connection; `Connected` or `Disconnected` follows."""
        self.drop()
        client = self._client = self._new_client(will)
        if self.covered:
            self._connectors.submit(self._open, client)
        else:
            self._loop.after(_NO_COVERAGE_S, lambda: self._end(client, "no coverage"))

    def publish(self, message: Publish) -> None:
        """Publish while connected."""
        client = self._client
        if client is None or not client.is_connected():
            return
        late_s = self._late()
        if late_s > 0:
            self._loop.after(late_s, lambda: self._publish(client, message))
        else:
            self._publish(client, message)

    def subscribe(self, pattern: str) -> None:
        """Receive a filter as well, at QoS 0."""
        if self._client is not None and self._client.is_connected():
            self._client.subscribe(pattern, options=SubscribeOptions(qos=0))

    def unsubscribe(self, pattern: str) -> None:
        """Receive it no more."""
        if self._client is not None and self._client.is_connected():
            self._client.unsubscribe(pattern)

    def drop(self) -> None:
        """Close the connection without a word; the broker publishes the will. No event follows."""
        client, self._client = self._client, None
        self._tokens = {}
        self._forget()
        if client is not None:
            _close(client)

    def close(self, timeout_s: float) -> None:
        """Say goodbye as far as there is room for it now, and end it."""
        client = self._client
        if client is not None and client.is_connected():
            client.disconnect()
            client.loop_write()
        self.drop()

    # What the scenario does.

    def lose(self, reason: str) -> None:
        """The connection breaks, without a word to the broker."""
        client = self._client
        if client is not None:
            self._forget()
            _close(client)
            self._end(client, reason)

    def stall(self, stalled: bool) -> None:
        """Whether nothing comes and nothing goes."""
        if stalled == self.stalled:
            return
        self.stalled, client = stalled, self._client
        if stalled:
            self._forget()
        elif client is not None:
            self._watch(client)

    # In a connector.

    def _open(self, client: paho.Client) -> None:
        problem = ""
        try:
            client.tls_set_context(self._tls())
            connect(client, self._endpoint)
        except (OSError, ValueError) as error:
            problem = f"{self._endpoint.host}:{self._endpoint.port}: {error}"
        self._loop.soon(lambda: self._opened(client, problem))

    # In the loop.

    def _opened(self, client: paho.Client, problem: str) -> None:
        if client is not self._client:
            _close(client)
        elif problem:
            self._end(client, problem)
        else:
            self._watch(client)
            self._tend(client)

    def _watch(self, client: paho.Client) -> None:
        connection = client.socket()
        if connection is not None and not self.stalled and self._descriptor is None:
            self._descriptor = connection.fileno()
            self._loop.watch(self._descriptor, lambda _flags: self._serve(client), write=client.want_write())

    def _forget(self) -> None:
        if self._descriptor is not None:
            self._loop.forget(self._descriptor)
            self._descriptor = None

    def _serve(self, client: paho.Client) -> None:
        """Read what has come, the records that TLS has decrypted already too, and write what waits."""
        client.loop_read()
        while isinstance(connection := client.socket(), ssl.SSLSocket) and connection.pending():
            client.loop_read()
        self._write(client)

    def _write(self, client: paho.Client) -> None:
        if client is not self._client or self._descriptor is None:
            return
        waited = client.want_write()
        client.loop_write()
        if waited and self._descriptor is not None:
            self._loop.change(self._descriptor, write=client.want_write())

    def _tend(self, client: paho.Client) -> None:
        """Pings, and an end where they are not answered."""
        if client is not self._client:
            return
        if not self.stalled:
            client.loop_misc()
        self._loop.after(self._endpoint.keepalive_s / 4, lambda: self._tend(client))

    def _publish(self, client: paho.Client, message: Publish) -> None:
        if client is not self._client or not client.is_connected():
            return
        info = client.publish(message.topic, message.payload, message.qos, message.retain)
        if message.qos:
            self._tokens[info.mid] = message.token

    def _emit(self, client: paho.Client, event: MqttEvent) -> None:
        if client is self._client:
            self._post(event)

    def _end(self, client: paho.Client, reason: str) -> None:
        if client is self._client:
            self._forget()
            self._client, self._tokens = None, {}
            self._post(Disconnected(reason))

    # paho's callbacks.

    def _new_client(self, will: Publish) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._endpoint.client_id,
            protocol=paho.MQTTv5,
            reconnect_on_failure=False,
        )
        client.connect_timeout = self._endpoint.connect_timeout_s
        client.max_inflight_messages_set(MAX_IN_FLIGHT)
        client.will_set(will.topic, will.payload, will.qos, will.retain)
        client.on_connect = self._on_connect
        client.on_disconnect = lambda client, _data, _flags, reason, _more: self._end(client, f"lost: {reason}")
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_socket_close = self._on_socket_close
        client.on_socket_register_write = self._on_wish_to_write
        return client

    def _on_connect(self, client: paho.Client, _data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._end(client, f"the broker refused the connection: {reason}")
            return
        for topic, qos in self._filters:
            client.subscribe(topic, options=SubscribeOptions(qos=qos))
        receive_maximum = getattr(properties, "ReceiveMaximum", DEFAULT_RECEIVE_MAXIMUM)
        self._emit(client, Connected(min(receive_maximum, MAX_IN_FLIGHT), bool(flags.session_present)))

    def _on_message(self, client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        try:
            event = Received(message.topic, bytes(message.payload))
        except UnicodeDecodeError:
            return
        late_s = self._late()
        if late_s > 0:
            self._loop.after(late_s, lambda: self._emit(client, event))
        else:
            self._emit(client, event)

    def _on_publish(self, client: paho.Client, _data: Any, mid: int, _reason: Any, _properties: Any) -> None:
        token = self._tokens.pop(mid, None) if client is self._client else None
        if token is not None:
            self._post(Acked(token))

    def _on_socket_close(self, client: paho.Client, _data: Any, _socket: Any) -> None:
        if client is self._client:
            self._forget()

    def _on_wish_to_write(self, client: paho.Client, _data: Any, _socket: Any) -> None:
        if client is self._client and self._descriptor is not None:
            self._loop.soon(lambda: self._write(client))


def _close(client: paho.Client) -> None:
    connection = client.socket()
    if isinstance(connection, socket.socket):
        with contextlib.suppress(OSError):
            connection.close()
