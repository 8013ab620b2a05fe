"""Tables of profile.toml about signals: where they are read, and which of them is which VSS path.

One `signals` source has one or several feeds, all live or all recorded, and gives `SignalFrame`s at `rate_hz` of source
time. Feeds of the kinds can, can-log, csv and npz need `[sources.X.signals."Vehicle.…"]` tables that say what their
signals are; layout and nmea know it themselves, and such a table only changes limits.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from roadloop_agent.hardware_config import Pace
from roadloop_models.errors import ConfigError
from roadloop_models.settings import nearest
from roadloop_models.signals import VSS, conversion

FilePath = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
Label = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,30}\Z")]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
DbcFiles = Annotated[tuple[FilePath, ...], msgspec.Meta(min_length=1, max_length=32)]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of these tables."""


class _Feed(_Table, frozen=True, kw_only=True, tag_field="kind"):
    """What all feeds have."""

    name: Label | None = None
    """What a signal's `feed` calls it."""


class CanFeed(_Feed, frozen=True, kw_only=True, tag="can"):
    """A CAN bus. It is only listened to."""

    interface: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_]{1,30}\Z")] = "socketcan"
    """One of python-can: socketcan, virtual, slcan, pcan, kvaser, …"""
    channel: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] = "can0"
    fd: bool = False
    dbc: DbcFiles
    silent_s: Seconds = 5.0
    """Without a used frame for so long the bus is reported as silent."""


class CanLogFeed(_Feed, frozen=True, kw_only=True, tag="can-log"):
    """A recorded bus: candump (.log), Vector's .blf and .asc, or an npz with raw CAN as comma2k19 has it."""

    path: FilePath
    dbc: DbcFiles
    bus: int | str | None = None
    """Of a log with several buses this one; without it all."""
    max_gap_s: Seconds = 60.0
    """A step of the recorded time that is longer is a jump of the clock."""


class CsvFeed(_Feed, frozen=True, kw_only=True, tag="csv"):
    """Columns of a CSV with a header; `from` names a column."""

    path: FilePath
    time: str
    """The column with the time."""
    time_unit: Literal["s", "ms", "us"] = "s"
    delimiter: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = ","
    max_gap_s: Seconds = 60.0


class NpzTableFeed(_Feed, frozen=True, kw_only=True, tag="npz"):
    """Arrays of an npz; `from` names an array, or with `.2` the third column of one."""

    path: FilePath
    time: str
    time_unit: Literal["s", "ms", "us"] = "s"
    max_gap_s: Seconds = 60.0


class LayoutFeed(_Feed, frozen=True, kw_only=True, tag="layout"):
    """A file of a public data set that is known: the mapping is ready-made (docs/signals.md has the list)."""

    path: FilePath
    drive: str | None = None
    """One drive of a file that has several; without it the first."""
    max_gap_s: Seconds = 60.0


class NmeaLogFeed(_Feed, frozen=True, kw_only=True, tag="nmea-log"):
    """Recorded NMEA 0183 sentences of a GNSS receiver, in the time that they say."""

    path: FilePath
    max_gap_s: Seconds = 60.0


class NmeaFeed(_Feed, frozen=True, kw_only=True, tag="nmea"):
    """A GNSS receiver on a serial device (or a named pipe) that sends NMEA 0183."""

    device: Annotated[str, msgspec.Meta(pattern=r"^/")]
    baud: Literal[4800, 9600, 19200, 38400, 57600, 115200, 230400, 460800, 921600] | None = None
    """Without it the device's speed is left as it is."""
    silent_s: Seconds = 5.0


_OF_GNSS = "Vehicle.CurrentLocation."
LiveFeedTable = CanFeed | NmeaFeed
RecordedFeed = CanLogFeed | CsvFeed | NpzTableFeed | LayoutFeed | NmeaLogFeed
FeedTable = CanFeed | CanLogFeed | CsvFeed | NpzTableFeed | LayoutFeed | NmeaLogFeed | NmeaFeed
MappedFeed = CanFeed | CanLogFeed | CsvFeed | NpzTableFeed
"""Feeds whose signals a profile names."""


class SignalTable(_Table, frozen=True, kw_only=True, rename={"from_": "from"}):
    """`[sources.X.signals."Vehicle.…"]`: where a signal comes from, and what is believed of it."""

    from_: str | None = None
    """`MESSAGE.SIGNAL` of a DBC, or a column. In the file the key is `from`."""
    feed: str | None = None
    """The name of the feed, where there is more than one that it could be."""
    unit: str | None = None
    """What it is sent in; without it the DBC's unit, else that of the catalogue."""
    scale: float = 1.0
    offset: float = 0.0
    """Corrections before the conversion: value * scale + offset."""
    min: float | None = None
    max: float | None = None
    """The plausible range in the catalogue's unit; without them that of the catalogue."""
    stale_s: Seconds | None = None
    """For how long a value is good; without it that of the catalogue."""
    frozen_s: Seconds | None = None
    """Unchanged for so long it is frozen; without it a value may stay the same for ever."""
    rests_at: float | None = None
    """The value at which it may stay (a speed of 0) whatever `frozen_s` says."""


class SignalsSource(_Table, frozen=True, kw_only=True, tag_field="kind", tag="signals"):
    """Signals of the vehicle from all its feeds, sampled together."""

    rate_hz: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 10.0
    """SignalFrames per second of source time."""
    feeds: Annotated[tuple[FeedTable, ...], msgspec.Meta(min_length=1, max_length=16)]
    signals: dict[str, SignalTable] = {}
    loop: bool = False
    """Recorded feeds: begin again after the end."""
    pace: Pace = "rate"
    """Recorded feeds: `rate` or `as-consumed`. Live feeds are always `live`."""
    speed: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 1.0
    """Recorded feeds: how many times faster than real time."""

    def __post_init__(self) -> None:
        if self.is_live and self.pace == "rate":
            msgspec.structs.force_setattr(self, "pace", "live")

    @property
    def is_live(self) -> bool:
        """Whether its feeds are live."""
        return isinstance(self.feeds[0], LiveFeedTable)


class MadeDriveSource(_Table, frozen=True, kw_only=True, tag_field="kind", tag="made-drive"):
    """The signals of a seeded made drive: motion, GNSS and OBD, for a vehicle without a bus."""

    seed: int = 0
    minutes: Annotated[float, msgspec.Meta(ge=1, le=240)] = 30.0
    rate_hz: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 10.0
    loop: bool = False
    pace: Literal["rate", "as-consumed"] = "rate"
    speed: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 1.0


def check_signals(where: str, source: SignalsSource) -> None:
    """Raises ConfigError, beginning with `where`, where the tables of a source do not go together."""
    live = [isinstance(feed, LiveFeedTable) for feed in source.feeds]
    if any(live) and not all(live):
        raise ConfigError(f"{where}.feeds: live and recorded feeds do not share a time; make two sources of them")
    if any(live) and (source.pace != "live" or source.speed != 1.0 or source.loop):
        raise ConfigError(f"{where}: pace, speed and loop are for recorded feeds; live ones come as they come")
    if not any(live) and source.pace == "live":
        raise ConfigError(f"{where}.pace: recorded feeds are 'rate' or 'as-consumed'")
    names = [feed.name for feed in source.feeds if feed.name is not None]
    if len(set(names)) != len(names):
        raise ConfigError(f"{where}.feeds: two have the same name")
    for path, signal in source.signals.items():
        _check_signal(f"{where}.signals.'{path}'", path, signal, source.feeds)
    if not source.signals and all(isinstance(feed, MappedFeed) for feed in source.feeds):
        raise ConfigError(f"{where}.signals: say which of the feed's signals is which VSS path")


def may_give(source: SignalsSource, path: str) -> bool:
    """Whether a source may have a signal: what a file of a known layout has is not known before it is read."""
    return (
        path in source.signals
        or any(isinstance(feed, LayoutFeed) for feed in source.feeds)
        or (path.startswith(_OF_GNSS) and any(isinstance(feed, NmeaFeed | NmeaLogFeed) for feed in source.feeds))
    )


def feed_of(where: str, signal: SignalTable, feeds: Sequence[FeedTable]) -> int | None:
    """Which feed a signal's table is about; None: whichever of those that know their signals has it.

    Raises ConfigError.
    """
    if signal.feed is not None:
        names = [feed.name for feed in feeds]
        if signal.feed not in names:
            near = nearest(signal.feed, [name for name in names if name is not None])
            raise ConfigError(f"{where}.feed: there is no feed of the name '{signal.feed}'{near}")
        return names.index(signal.feed)
    mapped = [index for index, feed in enumerate(feeds) if isinstance(feed, MappedFeed)]
    if signal.from_ is None:
        return None
    if not mapped:
        raise ConfigError(f"{where}.from: these feeds know their signals themselves; leave it out")
    if len(mapped) > 1:
        raise ConfigError(f"{where}.feed: there are {len(mapped)} feeds that it could come from: name one of them")
    return mapped[0]


def _check_signal(where: str, path: str, signal: SignalTable, feeds: Sequence[FeedTable]) -> None:
    if path not in VSS:
        matches = nearest(path, VSS) if len(path) < 200 else ""
        hint = matches if matches.startswith("; did you mean") else "; docs/signals.md lists the VSS paths"
        raise ConfigError(f"{where}: unknown path{hint}")
    index = feed_of(where, signal, feeds)
    if index is not None and isinstance(feeds[index], MappedFeed) != (signal.from_ is not None):
        raise ConfigError(
            f"{where}.from: this feed {'needs it' if signal.from_ is None else 'knows its signals itself'}"
        )
    if signal.from_ is None and (signal.unit, signal.scale, signal.offset) != (None, 1.0, 0.0):
        raise ConfigError(f"{where}: unit, scale and offset are for signals with a `from`")
    if signal.unit is not None:
        try:
            conversion(signal.unit, VSS[path].unit)
        except ConfigError as error:
            raise ConfigError(f"{where}.unit: {error}") from error
    low = VSS[path].low if signal.min is None else signal.min
    high = VSS[path].high if signal.max is None else signal.max
    if not low < high:
        raise ConfigError(f"{where}: the range from min {low:g} to max {high:g} is empty")
