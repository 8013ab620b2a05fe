"""The channel table: every topic has one channel, and nothing that is not in the table is accepted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_models.contract import channels
from roadloop_models.contract.channels import CHANNELS, FLEET, FLEET_FILE, MAX_MESSAGE_BYTES, Direction, parse_topic
from roadloop_models.errors import MessageError

PARTS: dict[str, str | int] = {"stream": "road-speed", "sha256": "0a" * 32, "n": 17}


def vehicle_of(channel: channels.Channel) -> str:
    return FLEET if channel is FLEET_FILE else "van-1"


@pytest.mark.parametrize("channel", CHANNELS, ids=lambda channel: channel.name)
def test_a_topic_leads_back_to_its_channel(channel: channels.Channel) -> None:
    topic = channel.topic(vehicle_of(channel), **PARTS)
    address = parse_topic(topic)
    assert address.channel is channel
    assert address.vehicle == vehicle_of(channel)
    assert address.parts == {key: str(value) for key, value in PARTS.items() if "{" + key + "}" in channel.pattern}


@pytest.mark.parametrize("channel", CHANNELS, ids=lambda channel: channel.name)
def test_limits_of_the_table(channel: channels.Channel) -> None:
    assert 0 < channel.max_bytes <= MAX_MESSAGE_BYTES
    assert channel.qos in (0, 1)
    assert channel.pattern.startswith(("up/", "down/", "file/"))
    assert (channel.direction is Direction.UP) == channel.pattern.startswith("up/")


def test_names_and_patterns_are_unique() -> None:
    assert len({channel.name for channel in CHANNELS}) == len(CHANNELS)
    assert len({channel.pattern for channel in CHANNELS}) == len(CHANNELS)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "roadloop/v1",
        "roadloop/v2/van-1/up/status",
        "roadloop/v1/van-1/up/unknown",
        "roadloop/v1/Van/up/status",
        "roadloop/v1/_all/up/status",
        "roadloop/v1/van-1/file/" + "0a" * 32 + "/1",
        "roadloop/v1/van-1/down/file/" + "0A" * 32 + "/1",
        "roadloop/v1/van-1/down/file/" + "0a" * 32 + "/01",
        "roadloop/v1/van-1/up/t/../status",
        "roadloop/v1/van-1/up/t/" + "a" * 300,
    ],
)
def test_a_topic_outside_the_table_is_refused(topic: str) -> None:
    with pytest.raises(MessageError):
        parse_topic(topic)


@pytest.mark.parametrize("vehicle", ["", "_all", "a/b", "+", "#", "Van", "van 1", "-van", "v" * 41, "van\n"])
def test_a_vehicle_id_that_could_leave_its_topic_is_refused(vehicle: str) -> None:
    with pytest.raises(MessageError):
        channels.check_vehicle_id(vehicle)


@given(st.text(max_size=80))
def test_no_text_breaks_the_parser(text: str) -> None:
    for topic in (text, f"roadloop/v1/{text}", f"roadloop/v1/van-1/up/t/{text}"):
        try:
            address = parse_topic(topic)
        except MessageError:
            continue
        assert address.channel.topic(address.vehicle, **address.parts) == topic
