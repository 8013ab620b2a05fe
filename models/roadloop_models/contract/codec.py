"""Bounded encoding and decoding of messages: size is checked before anything is parsed."""

from functools import cache
from typing import Any, TypeVar

import msgspec

from roadloop_models.contract import channels, messages
from roadloop_models.contract.channels import Channel
from roadloop_models.errors import MessageError
from roadloop_models.typed import from_json, from_msgpack

MessageT = TypeVar("MessageT", bound=messages.Message)

_MESSAGE_OF: dict[str, type[messages.Message]] = {
    channels.STATUS.name: messages.Status,
    channels.TELEMETRY.name: messages.TelemetryBatch,
    channels.LOST.name: messages.Lost,
    channels.BLOB.name: messages.BlobBlock,
    channels.REPORTED.name: messages.Reported,
    channels.FETCH.name: messages.FetchRequest,
    channels.SKETCH.name: messages.Sketch,
    channels.REPLY.name: messages.Reply,
    channels.DESIRED.name: messages.Desired,
    channels.COMMAND.name: messages.Command,
    channels.CAMPAIGNS.name: messages.Campaigns,
    channels.CURSOR.name: messages.Cursor,
    channels.FILE.name: messages.FileBlock,
    channels.FLEET_FILE.name: messages.FileBlock,
}
_BINARY = {
    channels.TELEMETRY.name,
    channels.BLOB.name,
    channels.SKETCH.name,
    channels.FILE.name,
    channels.FLEET_FILE.name,
}


def encode(channel: Channel, message: messages.Message) -> bytes:
    """The payload of one message. Raises MessageError where it would be larger than the channel allows."""
    if not isinstance(message, _MESSAGE_OF[channel.name]):
        raise MessageError(f"channel {channel.name} does not carry {type(message).__name__}")
    payload: bytes = _encoder(channel.name in _BINARY).encode(message)
    _check_size(channel, len(payload))
    return payload


def decode(channel: Channel, payload: bytes | bytearray | memoryview, kind: type[MessageT]) -> MessageT:
    """One message of the kind that the channel carries; unknown fields are ignored.

    Raises MessageError where it is oversize, malformed, or a field is missing or out of range.
    """
    if kind is not _MESSAGE_OF[channel.name]:
        raise MessageError(f"channel {channel.name} does not carry {kind.__name__}")
    _check_size(channel, len(payload))
    try:
        message = (from_msgpack if channel.name in _BINARY else from_json)(payload, kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MessageError(f"channel {channel.name}: {error}") from error
    assert isinstance(message, kind)
    return message


def _check_size(channel: Channel, size_bytes: int) -> None:
    if size_bytes > channel.max_bytes:
        raise MessageError(f"channel {channel.name}: {size_bytes} bytes, at most {channel.max_bytes} are allowed")


@cache
def _encoder(binary: bool) -> Any:
    return msgspec.msgpack.Encoder() if binary else msgspec.json.Encoder()
