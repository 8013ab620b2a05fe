"""paho behind the session: MQTT 5 over mutual TLS.

Every connection is a new paho client, so that nothing of an old one's queue comes back on the next. Callbacks run in
paho's thread and only put events into the owner's queue; only the owner publishes. Its known traps are met here:
publishing while disconnected, a message larger than the broker takes, an exception in a callback.
"""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from roadloop_agent.link.session import Publish
from roadloop_models.contract.channels import MAX_MESSAGE_BYTES
from roadloop_models.errors import ConfigError

SESSION_EXPIRY_S = 86_400
DEFAULT_RECEIVE_MAXIMUM = 65_535
"""What MQTT 5 assumes where the broker does not say."""
MAX_IN_FLIGHT = 256


@dataclass(frozen=True)
class Connected:
    """A connection is open and the subscriptions were sent."""

    receive_maximum: int
    session_present: bool
    address: str = ""
    """Of the broker, numeric; empty where it is not known."""


@dataclass(frozen=True)
class Disconnected:
    """The connection, or the attempt to make one, has ended."""

    reason: str


@dataclass(frozen=True)
class Received:
    """A message of the cloud."""

    topic: str
    payload: bytes


@dataclass(frozen=True)
class Acked:
    """The PUBACK of the publication with that token."""

    token: int


MqttEvent: TypeAlias = Connected | Disconnected | Received | Acked


@dataclass(frozen=True)
class Endpoint:
    """Which broker, as whom."""

    host: str
    port: int
    client_id: str
    keepalive_s: int
    connect_timeout_s: float = 10.0


def tls_context(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """A client context that trusts that CA alone. Raises ConfigError naming the file that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{ca}: broker.ca: {error}") from error
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{certificate}: broker.certificate, or its key {key}: {error}") from error
    return context


def connect(client: paho.Client, endpoint: Endpoint) -> None:
    """Ask for a session that outlives absences, and for no packet that is too large. Raises OSError, ValueError."""
    properties: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = SESSION_EXPIRY_S
    properties.MaximumPacketSize = MAX_MESSAGE_BYTES + 1024
    client.connect(
        endpoint.host, endpoint.port, keepalive=endpoint.keepalive_s, clean_start=False, properties=properties
    )


class MqttLink:
    """At most one connection at a time. Its methods belong to the owner's thread; events come through `post`."""

    def __init__(
        self,
        endpoint: Endpoint,
        tls: ssl.SSLContext,
        filters: Sequence[tuple[str, int]],
        post: Callable[[MqttEvent], None],
    ) -> None:
        """`filters`: topic filters and their QoS, subscribed to at every connection."""
        self._endpoint = endpoint
        self._tls = tls
        self._filters = list(filters)
        self._post = post
        self._lock = threading.Condition()
        # Under the lock: which client is the present one, and what it has not been answered yet.
        self._client: paho.Client | None = None
        self._tokens: dict[int, int] = {}
        self._acked_early: set[int] = set()

    def connect(self, will: Publish) -> None:
        """Begin a connection in the background; `Connected` or `Disconnected` follows."""
        self.drop()
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._endpoint.client_id,
            protocol=paho.MQTTv5,
            reconnect_on_failure=False,
        )
        client.tls_set_context(self._tls)
        client.connect_timeout = self._endpoint.connect_timeout_s
        client.max_inflight_messages_set(MAX_IN_FLIGHT)
        client.will_set(will.topic, will.payload, will.qos, will.retain)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        with self._lock:
            self._client, self._tokens, self._acked_early = client, {}, set()
        threading.Thread(target=self._open, args=(client,), name="mqtt-connect", daemon=True).start()

    def publish(self, message: Publish) -> None:
        """Publish while connected. Where the connection has just gone, `Disconnected` is on its way."""
        client = self._client
        if client is None or not client.is_connected() or len(message.payload) > MAX_MESSAGE_BYTES:
            return
        info = client.publish(message.topic, message.payload, message.qos, message.retain)
        if message.qos == 0:
            return
        with self._lock:
            early = info.mid in self._acked_early
            self._acked_early.discard(info.mid)
            if not early:
                self._tokens[info.mid] = message.token
        if early:
            self._post(Acked(message.token))

    def subscribe(self, pattern: str) -> None:
        """Receive a filter as well, at QoS 0, for as long as the broker knows this client."""
        client = self._client
        if client is not None and client.is_connected():
            client.subscribe(pattern, options=SubscribeOptions(qos=0))

    def unsubscribe(self, pattern: str) -> None:
        """Receive it no more."""
        client = self._client
        if client is not None and client.is_connected():
            client.unsubscribe(pattern)

    def drop(self) -> None:
        """Close the connection without a word; the broker publishes the will. No event follows."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            _cut(client)

    def close(self, timeout_s: float) -> None:
        """Wait for at most `timeout_s` until what was published is acknowledged, then disconnect."""
        client = self._client
        if client is not None and client.is_connected():
            with self._lock:
                answered = self._lock.wait_for(lambda: not self._tokens, timeout_s)
            if answered:
                client.disconnect()
                with self._lock:
                    self._lock.wait_for(lambda: self._client is None, timeout_s)
        self.drop()

    def _open(self, client: paho.Client) -> None:
        try:
            connect(client, self._endpoint)
        except (OSError, ValueError) as error:
            self._end(client, f"{self._endpoint.host}:{self._endpoint.port}: {error}")
            return
        client.loop_start()
        if client is not self._client:
            _cut(client)  # dropped in the meantime: it must not take the session over from its successor

    def _emit(self, client: paho.Client, event: MqttEvent) -> None:
        if client is self._client:
            self._post(event)

    def _end(self, client: paho.Client, reason: str) -> None:
        with self._lock:
            if client is not self._client:
                return
            self._client = None
            self._lock.notify_all()
        self._post(Disconnected(reason))

    # Callbacks, in paho's thread.

    def _on_connect(self, client: paho.Client, _data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._end(client, f"the broker refused the connection: {reason}")
            return
        for topic, qos in self._filters:
            client.subscribe(topic, options=SubscribeOptions(qos=qos))
        receive_maximum = getattr(properties, "ReceiveMaximum", DEFAULT_RECEIVE_MAXIMUM)
        connected = Connected(min(receive_maximum, MAX_IN_FLIGHT), bool(flags.session_present), _peer(client))
        self._emit(client, connected)

    def _on_disconnect(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._end(client, f"connection lost: {reason}")

    def _on_message(self, client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        self._emit(client, Received(topic, bytes(message.payload)))

    def _on_publish(self, client: paho.Client, _data: Any, mid: int, _reason: Any, _properties: Any) -> None:
        with self._lock:
            if client is not self._client:
                return
            token = self._tokens.pop(mid, None)
            if token is None:
                self._acked_early.add(mid)
            self._lock.notify_all()
        if token is not None:
            self._post(Acked(token))


def _peer(client: paho.Client) -> str:
    """The broker's address."""
    connection = client.socket()
    with contextlib.suppress(OSError):
        return str(connection.getpeername()[0]) if isinstance(connection, socket.socket) else ""
    return ""


def _cut(client: paho.Client) -> None:
    """Shut the socket itself down, below TLS: paho's thread reads the end and stops, with nothing to wait for."""
    connection = client.socket()
    if isinstance(connection, socket.socket):
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connection, socket.SHUT_RDWR)
