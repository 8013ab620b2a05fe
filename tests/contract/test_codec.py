"""Messages survive the round trip, and what is oversize or malformed is refused before it is used."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_models.campaigns.campaign import Budget, Campaign
from roadloop_models.contract import channels, messages
from roadloop_models.contract.channels import CHANNELS, Channel
from roadloop_models.contract.codec import decode, encode
from roadloop_models.errors import MessageError

VECTORS = Path(__file__).parents[1] / "vectors" / "messages"
SHA = "5f" * 32
REF = messages.ReleaseRef(task="traffic-sign", release=2, version="2-abc", manifest_sha256=SHA)
SLOT = messages.ReportedSlot(task="traffic-sign", running=REF, runtime="onnx", precision="int8", state="idle")

EXAMPLES: dict[str, messages.Message] = {
    "status": messages.Status(online=True, session="s1", boot=3, agent_version="0.1.0", hardware="x86-64"),
    "telemetry": messages.TelemetryBatch(boot=3, first_seq=1, last_seq=100, columns=b"\x28\xb5"),
    "lost": messages.Lost(
        ranges=(messages.LostRange(boot=3, stream="health", first_seq=4, last_seq=9, reason="spool-full"),)
    ),
    "blob": messages.BlobBlock(
        boot=3,
        seq=1,
        data=b"\x89PNG",
        item=messages.BlobItem(
            sha256=SHA,
            size_bytes=4,
            media_type="image/png",
            task="traffic-sign",
            about_stream="sign-decision",
            about_seq=7,
            t_ms=1,
        ),
    ),
    "reported": messages.Reported(
        boot=3, agent_version="0.1.0", hardware="x86-64", desired_version=4, slots={"sign": SLOT}
    ),
    "fetch": messages.FetchRequest(path="metadata/timestamp.json", blocks=((0, 7),)),
    "sketch": messages.Sketch(
        boot=3,
        seq=1,
        slot="sign",
        ref=REF,
        from_ms=1,
        to_ms=2,
        decisions=3,
        signals=(messages.SignalSketch(name="confidence", rows=2, unknown=1, total=1.5, counts=(1, 1), kll=b"k"),),
    ),
    "reply": messages.Reply(id="a", ok=True),
    "desired": messages.Desired(version=4, slots={"sign": REF}),
    "cmd": messages.Command(id="a", kind="ping"),
    "campaigns": messages.Campaigns(
        version=2,
        campaigns=(
            Campaign(name="unsure", task="traffic-sign", when="confidence < 0.5", budget=Budget(bytes_per_day=9)),
        ),
    ),
    "cursor": messages.Cursor(
        epoch=1,
        streams=(messages.StreamCursor(boot=3, stream="health", prefix=9, ranges=(messages.SeqRange(12, 14),)),),
    ),
    "file": messages.FileBlock(path="targets/a", size_bytes=3, crc32=7, data=b"abc"),
    "fleet-file": messages.FileBlock(path="targets/a", size_bytes=3, crc32=7, data=b"abc"),
}


@pytest.mark.parametrize("channel", CHANNELS, ids=lambda channel: channel.name)
def test_round_trip(channel: Channel) -> None:
    message = EXAMPLES[channel.name]
    assert decode(channel, encode(channel, message), type(message)) == message


@pytest.mark.parametrize("channel", CHANNELS, ids=lambda channel: channel.name)
def test_a_newer_sender_may_add_fields(channel: Channel) -> None:
    message = EXAMPLES[channel.name]
    binary = channel.name in ("telemetry", "blob", "sketch", "file", "fleet-file")
    code = msgspec.msgpack if binary else msgspec.json
    fields = code.decode(encode(channel, message))
    fields["of_next_year"] = {"nested": [1, 2]}
    assert decode(channel, code.encode(fields), type(message)) == message


@pytest.mark.parametrize("channel", CHANNELS, ids=lambda channel: channel.name)
def test_an_oversize_message_is_refused_unread(channel: Channel) -> None:
    with pytest.raises(MessageError, match="at most"):
        decode(channel, b"{" * (channel.max_bytes + 1), type(EXAMPLES[channel.name]))


def test_an_oversize_message_is_not_sent() -> None:
    with pytest.raises(MessageError, match="at most"):
        encode(channels.TELEMETRY, messages.TelemetryBatch(boot=1, first_seq=1, last_seq=2, columns=bytes(1 << 17)))


def test_a_channel_carries_only_its_own_message() -> None:
    with pytest.raises(MessageError, match="does not carry"):
        encode(channels.STATUS, EXAMPLES["cmd"])
    with pytest.raises(MessageError, match="does not carry"):
        decode(channels.STATUS, b"{}", messages.Command)


@pytest.mark.parametrize("path", sorted(VECTORS.glob("*.json")), ids=lambda path: path.stem)
def test_broken_message_is_refused(path: Path) -> None:
    channel = next(channel for channel in CHANNELS if path.stem.startswith(channel.name + "-"))
    with pytest.raises(MessageError, match=f"channel {channel.name}"):
        decode(channel, path.read_bytes(), type(EXAMPLES[channel.name]))


def test_there_are_broken_messages_to_try() -> None:
    assert len(list(VECTORS.glob("*.json"))) >= 8


@given(st.binary(max_size=400), st.sampled_from(CHANNELS))
def test_no_bytes_break_the_decoder(payload: bytes, channel: Channel) -> None:
    try:
        message = decode(channel, payload, type(EXAMPLES[channel.name]))
    except MessageError:
        return
    assert isinstance(message, type(EXAMPLES[channel.name]))
