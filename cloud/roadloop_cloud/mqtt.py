"""MQTT for the cloud's processes: a thin adapter around paho that turns callbacks into events of one queue.

The rules it keeps: callbacks only enqueue, one owner thread does everything else; nothing is published while
disconnected (paho would queue it in memory and report failure); sizes are checked by the codec before; what is received
is acknowledged only when its owner says so; an acknowledgement never reaches another connection than its message's.
"""

import queue
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from roadloop_cloud.workspace import IdentityFiles
from roadloop_models.contract.channels import Channel
from roadloop_models.contract.codec import encode
from roadloop_models.contract.messages import Message
from roadloop_models.errors import ConfigError, RetryLaterError

PUBLISH_WINDOW = 100
MAX_QUEUED_PUBLISHES = 10_000


@dataclass(frozen=True)
class Connected:
    """The broker accepted the connection; the owner subscribes again now."""

    session_present: bool


@dataclass(frozen=True)
class Disconnected:
    """The connection ended; paho tries again by itself, with back-off."""

    reason: str


@dataclass(frozen=True)
class Received:
    """A message, to be acknowledged by its owner once it is safe."""

    topic: str
    payload: bytes
    qos: int
    retained: bool
    message_id: int
    connection: int
    """Which connection brought it: message ids mean nothing on the next one."""

    @property
    def packet_bytes(self) -> int:
        """Size of the PUBLISH packet that carried it, by MQTT 5 §3.3 with no properties, TLS not counted."""
        remaining = 2 + len(self.topic.encode()) + (2 if self.qos else 0) + 1 + len(self.payload)
        length_bytes = 1 if remaining < 1 << 7 else 2 if remaining < 1 << 14 else 3 if remaining < 1 << 21 else 4
        return 1 + length_bytes + remaining


Event = Connected | Disconnected | Received


class Publication(Protocol):
    """A message on its way out."""

    def is_published(self) -> bool:
        """Whether it was written to the connection (QoS 0) or acknowledged by the broker (QoS 1)."""
        ...


class Transport(Protocol):
    """What a cloud process needs of MQTT. `MqttClient` is the real one."""

    @property
    def connected(self) -> bool:
        """Whether publishing makes sense now."""
        ...

    def next_event(self, timeout_s: float) -> Event | None:
        """The next event, or None when none came in time."""
        ...

    def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe at QoS 1. Raises RetryLaterError while disconnected."""
        ...

    def publish(self, channel: Channel, vehicle: str, message: Message, **parts: str | int) -> Publication:
        """Encode and send. Raises MessageError (not of the contract) or RetryLaterError (disconnected, or full)."""
        ...

    def acknowledge(self, received: Received) -> None:
        """Tell the broker that a message is safe. Does nothing where its connection is gone: it will come again."""
        ...


class MqttClient:
    """The production Transport: MQTT 5 over mutual TLS with a session that survives short absences."""

    def __init__(
        self,
        client_id: str,
        host: str,
        port: int,
        identity: IdentityFiles,
        *,
        session_expiry_s: int = 60,
        receive_maximum: int = 500,
        keepalive_s: int = 30,
    ) -> None:
        """Prepare; `start` connects. `receive_maximum` bounds what waits unacknowledged, so also the event queue.

        Raises ConfigError where the identity's files are missing or do not fit together.
        """
        self._address = (host, port)
        self._keepalive_s = keepalive_s
        self._session_expiry_s = session_expiry_s
        self._receive_maximum = receive_maximum
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._connection = 0
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5, manual_ack=True)
        client.tls_set_context(tls_context(identity))
        client.max_inflight_messages_set(PUBLISH_WINDOW)
        client.max_queued_messages_set(MAX_QUEUED_PUBLISHES)
        client.reconnect_delay_set(min_delay=1, max_delay=15)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        self._client = client

    def start(self) -> None:
        """Begin to connect, in paho's own thread; it goes on trying."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = self._session_expiry_s
        properties.ReceiveMaximum = self._receive_maximum
        self._client.connect_async(
            *self._address, keepalive=self._keepalive_s, clean_start=False, properties=properties
        )
        self._client.loop_start()

    def stop(self) -> None:
        """Disconnect and end the thread. The session stays at the broker until it expires."""
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def connected(self) -> bool:
        """Whether publishing makes sense now."""
        return self._client.is_connected()

    def next_event(self, timeout_s: float) -> Event | None:
        """The next event, or None when none came in time."""
        try:
            return self._events.get(timeout=timeout_s) if timeout_s > 0 else self._events.get_nowait()
        except queue.Empty:
            return None

    def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe at QoS 1. Raises RetryLaterError while disconnected."""
        code, _ = self._client.subscribe([(pattern, SubscribeOptions(qos=1)) for pattern in filters])
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise RetryLaterError(f"subscribe: {paho.error_string(code)}")

    def publish(self, channel: Channel, vehicle: str, message: Message, **parts: str | int) -> Publication:
        """Encode and send. Raises MessageError (not of the contract) or RetryLaterError (disconnected, or full)."""
        topic, payload = channel.topic(vehicle, **parts), encode(channel, message)
        if not self.connected:
            raise RetryLaterError(f"publish {topic}: not connected to the broker")
        info = self._client.publish(topic, payload, qos=channel.qos, retain=channel.retained)
        # NO_CONN means that the connection went in this moment: paho keeps the message and sends it on the next one.
        if info.rc not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN):
            raise RetryLaterError(f"publish {topic}: {paho.error_string(info.rc)}")
        return _Publication(info)

    def acknowledge(self, received: Received) -> None:
        """Tell the broker that a message is safe. Does nothing where its connection is gone: it will come again."""
        if received.qos and received.connection == self._connection:
            self._client.ack(received.message_id, received.qos)

    def _on_connect(self, _client: Any, _data: Any, flags: Any, code: ReasonCode, _properties: Any) -> None:
        if code.is_failure:
            self._events.put(Disconnected(f"refused by the broker: {code}"))
            return
        self._connection += 1
        self._events.put(Connected(session_present=flags.session_present))

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, code: ReasonCode, _properties: Any) -> None:
        self._connection += 1  # before paho connects again: no acknowledgement may slip into the next connection
        self._events.put(Disconnected(str(code)))

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self._events.put(
            Received(message.topic, bytes(message.payload), message.qos, message.retain, message.mid, self._connection)
        )


class _Publication:
    def __init__(self, info: paho.MQTTMessageInfo) -> None:
        self._info = info

    def is_published(self) -> bool:
        try:
            return self._info.is_published()
        except (ValueError, RuntimeError):  # paho's way to say that it never will be
            return False


def tls_context(identity: IdentityFiles) -> ssl.SSLContext:
    """TLS 1.2 or newer; the broker must show a certificate of the CA for its host name.

    Raises ConfigError naming the file that is missing or unreadable.
    """
    for path in (identity.ca, identity.certificate, identity.key):
        if not path.is_file():
            raise ConfigError(f"{path}: missing; 'roadloop up' and 'roadloop vehicles add' make identities")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(identity.ca)
        context.load_cert_chain(identity.certificate, identity.key)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"{identity.certificate}: {error}") from error
    return context
