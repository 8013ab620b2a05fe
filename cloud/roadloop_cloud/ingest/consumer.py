"""From a received message to what ingest commits: decoded, checked against its topic, nothing stored yet. Pure."""

import re
from dataclasses import dataclass

from roadloop_models.contract import channels
from roadloop_models.contract.channels import BLOCK_BYTES, parse_topic
from roadloop_models.contract.codec import decode
from roadloop_models.contract.columns import decode_columns
from roadloop_models.contract.messages import NOT_SAMPLES, BlobBlock, Lost, LostRange, Sketch, TelemetryBatch
from roadloop_models.errors import MessageError
from roadloop_models.sketches.sketch import decode_kll

RESERVED_COLUMNS = frozenset({"vehicle", "boot", "seq", "t_ms", "received", "day"})
MAX_T_MS = (1 << 53) - 1
_COLUMN = re.compile(r"^[a-z][a-z0-9_]{0,63}$")


@dataclass(frozen=True)
class Batch:
    """Samples first_seq..last_seq of one stream; `columns` decode and have as many rows."""

    vehicle: str
    boot: int
    stream: str
    first_seq: int
    last_seq: int
    columns: bytes
    packet_bytes: int


@dataclass(frozen=True)
class Losses:
    """What a vehicle gave up."""

    vehicle: str
    ranges: tuple[LostRange, ...]


@dataclass(frozen=True)
class BlobPiece:
    """Block `n` of `blocks` of a captured item."""

    vehicle: str
    n: int
    blocks: int
    block: BlobBlock
    packet_bytes: int


@dataclass(frozen=True)
class SketchItem:
    """An hour of a slot's signals, as distributions that do not contradict themselves."""

    vehicle: str
    sketch: Sketch
    packet_bytes: int


Item = Batch | Losses | BlobPiece | SketchItem


def decode_item(topic: str, payload: bytes, packet_bytes: int) -> Item:
    """Decode one message. Raises MessageError where it is not of the contract or contradicts its own topic."""
    address = parse_topic(topic)
    if address.channel is channels.TELEMETRY:
        return _batch(address.vehicle, address.parts["stream"], payload, packet_bytes)
    if address.channel is channels.LOST:
        return _losses(address.vehicle, payload)
    if address.channel is channels.BLOB:
        return _piece(address.vehicle, address.parts["sha256"], int(address.parts["n"]), payload, packet_bytes)
    if address.channel is channels.SKETCH:
        return _sketch(address.vehicle, payload, packet_bytes)
    raise MessageError(f"channel {address.channel.name} is none of ingest's")


def _batch(vehicle: str, stream: str, payload: bytes, packet_bytes: int) -> Batch:
    if stream in NOT_SAMPLES:
        raise MessageError(f"stream '{stream}' numbers what comes on another channel, and carries no samples")
    batch = decode(channels.TELEMETRY, payload, TelemetryBatch)
    columns = decode_columns(batch.columns)
    rows = batch.last_seq - batch.first_seq + 1
    if rows != len(columns.t_ms):
        raise MessageError(f"samples {batch.first_seq}..{batch.last_seq} are {rows}, columns have {len(columns.t_ms)}")
    for name in columns.names:
        if not _COLUMN.match(name) or name in RESERVED_COLUMNS:
            raise MessageError(f"stream {stream}: field {name!r} cannot be the name of a column")
    if len(set(columns.names)) != len(columns.names):
        raise MessageError(f"stream {stream}: a field comes twice")
    return Batch(vehicle, batch.boot, stream, batch.first_seq, batch.last_seq, batch.columns, packet_bytes)


def _losses(vehicle: str, payload: bytes) -> Losses:
    lost = decode(channels.LOST, payload, Lost)
    for entry in lost.ranges:
        if entry.last_seq < entry.first_seq:
            raise MessageError(f"stream {entry.stream}: lost {entry.first_seq}..{entry.last_seq} ends before it begins")
    return Losses(vehicle, lost.ranges)


def _sketch(vehicle: str, payload: bytes, packet_bytes: int) -> SketchItem:
    sketch = decode(channels.SKETCH, payload, Sketch)
    names = [signal.name for signal in sketch.signals]
    if len(set(names)) != len(names):
        raise MessageError(f"sketch of '{sketch.slot}': a signal comes twice")
    if not 0 <= sketch.from_ms <= sketch.to_ms <= MAX_T_MS:
        raise MessageError(f"sketch of '{sketch.slot}': from {sketch.from_ms} to {sketch.to_ms} ms is no time")
    for signal in sketch.signals:
        if signal.rows + signal.unknown != sketch.decisions:
            raise MessageError(
                f"sketch of '{signal.name}': {signal.rows} + {signal.unknown} of {sketch.decisions} rows"
            )
        decode_kll(signal)
    return SketchItem(vehicle, sketch, packet_bytes)


def _piece(vehicle: str, sha256: str, n: int, payload: bytes, packet_bytes: int) -> BlobPiece:
    block = decode(channels.BLOB, payload, BlobBlock)
    if block.item.sha256 != sha256:
        raise MessageError(f"blob {sha256}: the message is about {block.item.sha256}")
    if abs(block.item.t_ms) > MAX_T_MS:
        raise MessageError(f"blob {sha256}: its time {block.item.t_ms} ms is none")
    blocks = -(-block.item.size_bytes // BLOCK_BYTES)
    expected_bytes = BLOCK_BYTES if n < blocks - 1 else block.item.size_bytes - (blocks - 1) * BLOCK_BYTES
    if n >= blocks or len(block.data) != expected_bytes:
        raise MessageError(f"blob {sha256}: block {n} of {blocks} has {len(block.data)} bytes, not {expected_bytes}")
    return BlobPiece(vehicle, n, blocks, block, packet_bytes)
