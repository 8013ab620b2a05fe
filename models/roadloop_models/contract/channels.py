"""The one table of MQTT channels: who writes where, with which quality of service, and how large a message may be."""

import re
from dataclasses import dataclass
from enum import Enum

from roadloop_models.errors import MessageError

ROOT = "roadloop/v1"
FLEET = "_all"
"""Stands where a vehicle's id stands, for what every vehicle may read. No vehicle id starts with an underscore."""

MAX_MESSAGE_BYTES = 128 * 1024
BLOCK_BYTES = 64 * 1024
"""Size of one block of a file or blob; the last one may be shorter."""

_VEHICLE = re.compile(r"^[a-z0-9][a-z0-9-]{0,39}\Z")
_PART = {
    "stream": re.compile(r"^[a-z0-9][a-z0-9.-]{0,39}\Z"),
    "sha256": re.compile(r"^[0-9a-f]{64}\Z"),
    "n": re.compile(r"^(0|[1-9][0-9]{0,6})\Z"),
}


class Direction(Enum):
    """Who publishes."""

    UP = "vehicle -> cloud"
    DOWN = "cloud -> vehicle"


@dataclass(frozen=True)
class Channel:
    """One row of the table. `pattern` is what follows `roadloop/v1/{vehicle}/`."""

    name: str
    pattern: str
    direction: Direction
    qos: int
    retained: bool
    max_bytes: int
    carries: str

    def topic(self, vehicle: str, **parts: str | int) -> str:
        """The topic of one message. Raises MessageError where the vehicle id or a part is not of its form."""
        if vehicle != FLEET:
            check_vehicle_id(vehicle)
        levels = [ROOT, vehicle]
        for level in self.pattern.split("/"):
            if level.startswith("{"):
                key = level[1:-1]
                value = str(parts[key])
                if not _PART[key].match(value):
                    raise MessageError(f"channel {self.name}: {key} {value!r} is not of the form {_PART[key].pattern}")
                levels.append(value)
            else:
                levels.append(level)
        return "/".join(levels)

    def subscription(self, vehicle: str = "+") -> str:
        """The filter that receives this channel, of one vehicle or of all."""
        levels = ["+" if level.startswith("{") else level for level in self.pattern.split("/")]
        return "/".join([ROOT, vehicle, *levels])


_KIB = 1024
_UP, _DOWN = Direction.UP, Direction.DOWN

STATUS = Channel("status", "up/status", _UP, 1, True, 4 * _KIB, "online or offline, session, agent and hardware")
TELEMETRY = Channel("telemetry", "up/t/{stream}", _UP, 1, False, MAX_MESSAGE_BYTES, "a batch of samples")
LOST = Channel("lost", "up/lost", _UP, 1, False, 64 * _KIB, "sequence ranges given up, each with its reason")
BLOB = Channel("blob", "up/blob/{sha256}/{n}", _UP, 1, False, MAX_MESSAGE_BYTES, "one block of a captured item")
REPORTED = Channel("reported", "up/reported", _UP, 1, True, 64 * _KIB, "slots, versions, update state, last error")
FETCH = Channel("fetch", "up/fetch", _UP, 1, False, 16 * _KIB, "which blocks of which file are wanted")
SKETCH = Channel("sketch", "up/sketch", _UP, 1, False, 64 * _KIB, "an hour of one slot's signals, as distributions")
REPLY = Channel("reply", "up/reply", _UP, 1, False, MAX_MESSAGE_BYTES, "the answer to a command")
DESIRED = Channel("desired", "down/desired", _DOWN, 1, True, 64 * _KIB, "what every slot should run")
COMMAND = Channel("cmd", "down/cmd", _DOWN, 1, False, 16 * _KIB, "a thing to do once")
CAMPAIGNS = Channel("campaigns", "down/campaigns", _DOWN, 1, True, 64 * _KIB, "which moments are worth sending")
CURSOR = Channel("cursor", "down/cursor", _DOWN, 1, True, MAX_MESSAGE_BYTES, "up to where telemetry is committed")
FILE = Channel("file", "down/file/{sha256}/{n}", _DOWN, 0, False, MAX_MESSAGE_BYTES, "one block of a file")
FLEET_FILE = Channel("fleet-file", "file/{sha256}/{n}", _DOWN, 0, False, MAX_MESSAGE_BYTES, "the same, for all")

CHANNELS = (
    STATUS,
    TELEMETRY,
    LOST,
    BLOB,
    REPORTED,
    FETCH,
    SKETCH,
    REPLY,
    DESIRED,
    COMMAND,
    CAMPAIGNS,
    CURSOR,
    FILE,
    FLEET_FILE,
)


def for_all_filter(sha256: str) -> str:
    """The filter that receives the blocks of one content that are sent to all who wait for it."""
    return FLEET_FILE.topic(FLEET, sha256=sha256, n=0).removesuffix("0") + "+"


@dataclass(frozen=True)
class Address:
    """What a topic says: the channel, the vehicle (or FLEET) and the variable parts."""

    channel: Channel
    vehicle: str
    parts: dict[str, str]


def check_vehicle_id(vehicle: str) -> str:
    """The id itself. Raises MessageError where it is not 1-40 lower-case letters, digits and dashes."""
    if not _VEHICLE.match(vehicle):
        raise MessageError(f"vehicle id {vehicle!r}: 1 to 40 lower-case letters, digits and dashes are allowed")
    return vehicle


def parse_topic(topic: str) -> Address:
    """Find the channel of a topic. Raises MessageError where it belongs to none."""
    prefix, slash, rest = topic[: len(ROOT)], topic[len(ROOT) : len(ROOT) + 1], topic[len(ROOT) + 1 :]
    vehicle, _, tail = rest.partition("/")
    if prefix == ROOT and slash == "/" and len(topic) <= 256:
        levels = tail.split("/")
        for channel in CHANNELS:
            if (channel is FLEET_FILE) != (vehicle == FLEET):
                continue
            parts = _match(channel.pattern.split("/"), levels)
            if parts is not None and (vehicle == FLEET or _VEHICLE.match(vehicle)):
                return Address(channel, vehicle, parts)
    raise MessageError(f"topic {topic[:256]!r} belongs to no channel")


def _match(pattern: list[str], levels: list[str]) -> dict[str, str] | None:
    if len(pattern) != len(levels):
        return None
    parts = {}
    for want, got in zip(pattern, levels, strict=True):
        if want.startswith("{"):
            if not _PART[want[1:-1]].match(got):
                return None
            parts[want[1:-1]] = got
        elif want != got:
            return None
    return parts
