"""The cloud in one MQTT client: an ingest in memory with a ledger and cursors, desired states, a block server."""

import hashlib
import queue
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from roadloop_models.contract import channels
from roadloop_models.contract.channels import parse_topic
from roadloop_models.contract.codec import decode, encode
from roadloop_models.contract.columns import decode_columns
from roadloop_models.contract.messages import (
    BlobBlock,
    Cursor,
    Desired,
    FetchRequest,
    Lost,
    Message,
    Reported,
    SeqRange,
    Status,
    StreamCursor,
    TelemetryBatch,
)
from tests.fakes.broker import CLOUD, MosquittoBroker
from tests.fakes.repository import Repository, answer

WAIT_S = 30.0
Key = tuple[int, str]


@dataclass
class Ledger:
    """One vehicle's numbers: how often each was delivered, which were lost and why, and the rows with their times."""

    delivered: dict[Key, dict[int, int]] = field(default_factory=dict)
    lost: dict[Key, dict[int, str]] = field(default_factory=dict)
    rows: dict[Key, dict[int, list[float]]] = field(default_factory=dict)
    t_ms: dict[Key, dict[int, int]] = field(default_factory=dict)
    blobs: dict[str, dict[int, bytes]] = field(default_factory=dict)
    items: dict[str, Any] = field(default_factory=dict)

    def cursor(self, epoch: int) -> Cursor:
        """What is stored or lost, as prefix and ranges."""
        streams = []
        for key in {*self.delivered, *self.lost}:
            known = sorted({*self.delivered.get(key, {}), *self.lost.get(key, {})})
            spans: list[list[int]] = []
            for seq in known:
                if spans and seq == spans[-1][1] + 1:
                    spans[-1][1] = seq
                else:
                    spans.append([seq, seq])
            prefix = spans.pop(0)[1] if spans and spans[0][0] == 1 else 0
            ranges = tuple(SeqRange(first, last) for first, last in spans)
            streams.append(StreamCursor(boot=key[0], stream=key[1], prefix=prefix, ranges=ranges))
        return Cursor(epoch=epoch, streams=tuple(streams))

    def holes(self) -> dict[Key, list[int]]:
        """Numbers up to the last known one of each stream that are neither stored nor lost."""
        holes = {}
        for key in {*self.delivered, *self.lost}:
            known = {*self.delivered.get(key, {}), *self.lost.get(key, {})}
            missing = [seq for seq in range(1, max(known) + 1) if seq not in known]
            if missing:
                holes[key] = missing
        return holes

    def stored(self, stream: str) -> int:
        """Samples of a stream, over all boots."""
        return sum(len(numbers) for key, numbers in self.delivered.items() if key[1] == stream)

    def lost_reasons(self) -> set[str]:
        """Why numbers were given up."""
        return {reason for ranges in self.lost.values() for reason in ranges.values()}


class SmallCloud:
    """Connected while the block lasts. `committing` False: takes messages and says nothing (an ingest that hangs)."""

    def __init__(self, broker: MosquittoBroker, repository: Repository | None = None) -> None:
        self._broker = broker
        self._repository = repository
        self._inbox: queue.SimpleQueue[tuple[str, bytes] | None] = queue.SimpleQueue()
        self.lock = threading.Lock()
        self.ledgers: dict[str, Ledger] = {}
        self.statuses: dict[str, list[Status]] = {}
        self.reported: dict[str, Reported] = {}
        self.served: list[tuple[str, int]] = []
        self.serve_limit: int | None = None
        self.block_pause_s = 0.0
        self.committing = True
        self.epoch = 1

    def __enter__(self) -> "SmallCloud":
        certificate, key = self._broker.identity(CLOUD)
        context = ssl.create_default_context(cafile=str(self._broker.ca))
        context.load_cert_chain(certificate, key)
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=CLOUD, protocol=paho.MQTTv5)
        client.tls_set_context(context)
        client.reconnect_delay_set(1, 1)
        client.on_connect = lambda client, *_: client.subscribe("roadloop/v1/+/up/#", 1)
        client.on_message = lambda _client, _data, message: self._inbox.put((message.topic, bytes(message.payload)))
        self._client = client
        properties: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 3600
        client.connect_async("127.0.0.1", self._broker.port, clean_start=False, properties=properties)
        client.loop_start()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        self.wait("the cloud is connected", client.is_connected)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self._inbox.put(None)
        self._thread.join(WAIT_S)

    def wait(self, what: str, reached: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
        """Poll until it is so; fail the test, saying what did not come about, when time is up."""
        until_s = time.monotonic() + timeout_s
        while True:
            with self.lock:
                if reached():
                    return
            assert time.monotonic() < until_s, f"waited {timeout_s:.0f} s in vain: {what}"
            time.sleep(0.02)

    def ledger(self, vehicle: str) -> Ledger:
        """What has come from a vehicle."""
        return self.ledgers.setdefault(vehicle, Ledger())

    def desire(self, vehicle: str, desired: Desired) -> None:
        """Publish a desired state, which the director names before."""
        if self._repository is not None:
            self._repository.assign(vehicle, desired)
        self._publish(channels.DESIRED.topic(vehicle), channels.DESIRED, desired)

    def announce(self, vehicle: str) -> None:
        """Publish the cursor now."""
        with self.lock:
            self._announce(vehicle)

    def restore_from_nothing(self, vehicle: str) -> None:
        """The database is gone: an empty ledger of a new epoch."""
        with self.lock:
            self.epoch += 1
            self.ledgers[vehicle] = Ledger()
            self._announce(vehicle)

    def publish_raw(self, topic: str, payload: bytes) -> None:
        """Anything at all."""
        self._client.publish(topic, payload, qos=1)

    def _announce(self, vehicle: str) -> None:
        cursor = self.ledger(vehicle).cursor(self.epoch)
        self._publish(channels.CURSOR.topic(vehicle), channels.CURSOR, cursor)

    def _publish(self, topic: str, channel: channels.Channel, message: Message) -> None:
        self._client.publish(topic, encode(channel, message), channel.qos, channel.retained)

    def _work(self) -> None:
        while (item := self._inbox.get()) is not None:
            topic, payload = item
            address = parse_topic(topic)
            if address.channel is channels.FETCH:
                self._serve(address.vehicle, decode(channels.FETCH, payload, FetchRequest))
                continue
            with self.lock:
                if self._take(address, payload) and self.committing and self._inbox.empty():
                    self._announce(address.vehicle)

    def _take(self, address: channels.Address, payload: bytes) -> bool:
        ledger = self.ledger(address.vehicle)
        if address.channel is channels.TELEMETRY:
            batch = decode(channels.TELEMETRY, payload, TelemetryBatch)
            key = (batch.boot, address.parts["stream"])
            columns = decode_columns(batch.columns)
            assert len(columns.t_ms) == batch.last_seq - batch.first_seq + 1
            numbers = range(batch.first_seq, batch.last_seq + 1)
            for seq, t_ms, row in zip(numbers, columns.t_ms.tolist(), columns.values.tolist(), strict=True):
                self._count(ledger, key, seq)
                ledger.rows.setdefault(key, {})[seq] = row
                ledger.t_ms.setdefault(key, {})[seq] = t_ms
        elif address.channel is channels.BLOB:
            block = decode(channels.BLOB, payload, BlobBlock)
            self._count(ledger, (block.boot, "blob"), block.seq)
            ledger.blobs.setdefault(block.item.sha256, {})[int(address.parts["n"])] = block.data
            ledger.items[block.item.sha256] = block.item
        elif address.channel is channels.LOST:
            for entry in decode(channels.LOST, payload, Lost).ranges:
                reasons = ledger.lost.setdefault((entry.boot, entry.stream), {})
                reasons.update(dict.fromkeys(range(entry.first_seq, entry.last_seq + 1), entry.reason))
        elif address.channel is channels.STATUS:
            self.statuses.setdefault(address.vehicle, []).append(decode(channels.STATUS, payload, Status))
            return False
        elif address.channel is channels.REPORTED:
            self.reported[address.vehicle] = decode(channels.REPORTED, payload, Reported)
            return False
        return True

    def _count(self, ledger: Ledger, key: Key, seq: int) -> None:
        times = ledger.delivered.setdefault(key, {})
        times[seq] = times.get(seq, 0) + 1

    def _serve(self, vehicle: str, request: FetchRequest) -> None:
        content = None if self._repository is None else self._repository.read(vehicle, request.path)
        for sha256, n, block in answer(content, request):
            if self.serve_limit is not None and request.path.startswith("targets/"):
                if self.serve_limit == 0:
                    return
                self.serve_limit -= 1
            with self.lock:
                self.served.append((request.path, n))
            self._publish(channels.FILE.topic(vehicle, sha256=sha256, n=n), channels.FILE, block)
            time.sleep(self.block_pause_s)


def blob_content(ledger: Ledger, sha256: str) -> bytes:
    """An item put together; its hash is checked."""
    content = b"".join(data for _, data in sorted(ledger.blobs[sha256].items()))
    assert hashlib.sha256(content).hexdigest() == sha256
    return content
