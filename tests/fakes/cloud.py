"""The cloud's side without sockets: a transport in memory, a fresh database, messages as a vehicle makes them."""

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from roadloop_cloud.mqtt import Connected, Event, Publication, Received
from roadloop_cloud.store.database import Database, now_utc
from roadloop_cloud.store.ingest_tables import Vehicle
from roadloop_models.contract import channels
from roadloop_models.contract.channels import BLOCK_BYTES, Channel
from roadloop_models.contract.codec import encode
from roadloop_models.contract.columns import encode_columns
from roadloop_models.contract.messages import BlobBlock, BlobItem, Lost, LostRange, Message, TelemetryBatch
from roadloop_models.contract.streams import HEALTH
from roadloop_models.errors import RetryLaterError


@dataclass(frozen=True)
class Published:
    """What a process published; at once on its way."""

    channel: Channel
    vehicle: str
    message: Message
    parts: dict[str, str | int]

    def is_published(self) -> bool:
        return True


@dataclass
class FakeTransport:
    """A broker that delivers what the test puts in, again where it was not acknowledged, and never waits."""

    connected: bool = True
    published: list[Published] = field(default_factory=list)
    filters: list[str] = field(default_factory=list)
    acknowledged: list[int] = field(default_factory=list)
    _events: deque[Event] = field(default_factory=lambda: deque([Connected(session_present=False)]))
    _unacknowledged: dict[int, Received] = field(default_factory=dict)
    _message_id: int = 0

    def deliver(self, topic: str, payload: bytes) -> Received:
        """One message from the broker, QoS 1."""
        self._message_id += 1
        received = Received(topic, payload, 1, False, self._message_id, 1)
        self._unacknowledged[received.message_id] = received
        self._events.append(received)
        return received

    def redeliver(self) -> int:
        """What a broker does when a session resumes: all that was not acknowledged comes again. How many."""
        self._events.extend(self._unacknowledged.values())
        return len(self._unacknowledged)

    def next_event(self, timeout_s: float) -> Event | None:
        return self._events.popleft() if self._events else None

    def subscribe(self, filters: Sequence[str]) -> None:
        self.filters.extend(filters)

    def publish(self, channel: Channel, vehicle: str, message: Message, **parts: str | int) -> Publication:
        if not self.connected:
            raise RetryLaterError("not connected")
        encode(channel, message)
        self.published.append(Published(channel, vehicle, message, parts))
        return self.published[-1]

    def acknowledge(self, received: Received) -> None:
        del self._unacknowledged[received.message_id]
        self.acknowledged.append(received.message_id)


def fresh_database(directory: Path, *vehicles: str) -> Database:
    """A SQLite database with the given vehicles."""
    file = directory / "state.sqlite"
    file.write_bytes(_empty_database())
    database = Database(f"sqlite:///{file}")
    for vehicle in vehicles:
        add_vehicle(database, vehicle)
    return database


@cache
def _empty_database() -> bytes:
    """Made once: thirty tables, each synced to disk, are most of the time of a small test."""
    with TemporaryDirectory() as directory:
        file = Path(directory) / "state.sqlite"
        database = Database(f"sqlite:///{file}")
        database.create()
        database.close()  # the last connection writes the log back into the file
        return file.read_bytes()


def add_vehicle(database: Database, vehicle: str) -> None:
    """A row as `vehicles add` writes it."""
    with database.transaction() as session:
        session.add(Vehicle(id=vehicle, hardware="test", profile="test", tags=[], created=now_utc(), online=False))


def batch_message(
    vehicle: str, first_seq: int, last_seq: int, boot: int = 1, stream: str = "health"
) -> tuple[str, bytes]:
    """A batch of health samples whose `decisions` are their sequence numbers, so that a mix-up shows."""
    more = [0.0] * (len(HEALTH.fields) - 8)
    rows = [[0, 1, seq, 0, 100.0, 200.0, 0, 50.0, *more] for seq in range(first_seq, last_seq + 1)]
    columns = encode_columns(HEALTH.fields, [1_700_000_000_000 + row[2] for row in rows], rows)  # type: ignore[misc]
    batch = TelemetryBatch(boot=boot, first_seq=first_seq, last_seq=last_seq, columns=columns)
    return channels.TELEMETRY.topic(vehicle, stream=stream), encode(channels.TELEMETRY, batch)


def lost_message(vehicle: str, first_seq: int, last_seq: int, reason: str = "spool-full") -> tuple[str, bytes]:
    """Health samples of boot 1 that the vehicle gave up."""
    entry = LostRange(boot=1, stream="health", first_seq=first_seq, last_seq=last_seq, reason=reason)
    return channels.LOST.topic(vehicle), encode(channels.LOST, Lost(ranges=(entry,)))


def blob_messages(
    vehicle: str, content: bytes, first_seq: int = 1, claimed: str | None = None
) -> list[tuple[str, bytes]]:
    """All blocks of a captured item; `claimed` is the SHA-256 that it is said to have."""
    item = BlobItem(
        sha256=claimed or hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        media_type="image/png",
        task="traffic-sign",
        about_stream="sign-decision",
        about_seq=first_seq,
        t_ms=1_700_000_000_000,
    )
    messages = []
    for n, start in enumerate(range(0, len(content), BLOCK_BYTES)):
        block = BlobBlock(boot=1, seq=first_seq + n, item=item, data=content[start : start + BLOCK_BYTES])
        messages.append((channels.BLOB.topic(vehicle, sha256=item.sha256, n=n), encode(channels.BLOB, block)))
    return messages
