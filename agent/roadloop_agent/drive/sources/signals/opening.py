"""From the tables of a profile to sources that can be read."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

from roadloop_agent.drive.sources.signals.board import Limits
from roadloop_agent.drive.sources.signals.can_live import CanConnection, OpenBus, open_bus
from roadloop_agent.drive.sources.signals.can_log import CanLog
from roadloop_agent.drive.sources.signals.dbc import find_signal, load_dbc
from roadloop_agent.drive.sources.signals.gnss_nmea import NmeaDevice, NmeaLog
from roadloop_agent.drive.sources.signals.live import Connection, Live, LiveFeed
from roadloop_agent.drive.sources.signals.made import made_drive
from roadloop_agent.drive.sources.signals.mapping import MappedSignal, Plan, plan
from roadloop_agent.drive.sources.signals.replay import RecordedFeed, Replay
from roadloop_agent.drive.sources.signals.tables import open_csv, open_layout, open_npz, recording_table
from roadloop_agent.signals_config import (
    CanFeed,
    CanLogFeed,
    CsvFeed,
    FeedTable,
    LayoutFeed,
    LiveFeedTable,
    MadeDriveSource,
    NmeaFeed,
    NmeaLogFeed,
    NpzTableFeed,
    SignalsSource,
)
from roadloop_models.errors import ConfigError
from roadloop_models.signals import VSS

_MADE_GAP_S = 60.0


def open_replay(source: SignalsSource, directory: Path, wanted: Collection[str] | None) -> Replay:
    """The recorded feeds of a source; paths are relative to `directory`.

    `wanted` are the VSS paths that its slots use: only they are read; None: all that it could give. Raises ConfigError.
    """
    asked = plan(source, wanted)

    def feeds() -> list[tuple[RecordedFeed, float]]:
        opened: list[tuple[RecordedFeed, float]] = []
        taken: frozenset[str] = frozenset()
        for number, table in enumerate(source.feeds):
            assert not isinstance(table, LiveFeedTable), "recorded and live feeds are not mixed"
            # Of two feeds that know their signals the first that has one gives it.
            free = {path: index for path, index in asked.free[number].items() if path not in taken}
            feed = _recorded(table, directory, asked.named[number], free, feed_name(number, table))
            taken |= feed.paths
            opened.append((feed, table.max_gap_s))
        return opened

    return Replay(feeds, asked.limits, source.rate_hz)


def open_live(
    source: SignalsSource,
    directory: Path,
    wanted: Collection[str] | None,
    clock: Callable[[], float],
    open_can: OpenBus = open_bus,
) -> Live:
    """The live feeds of a source. Raises ConfigError where a DBC is broken or lacks a signal."""
    asked = plan(source, wanted)
    feeds = []
    for number, table in enumerate(source.feeds):
        assert isinstance(table, LiveFeedTable), "recorded and live feeds are not mixed"
        connect = _connector(table, directory, asked, number, open_can)
        feeds.append(LiveFeed(feed_name(number, table), connect, table.silent_s))
    return Live(feeds, asked.limits, source.rate_hz, clock)


def open_made(source: MadeDriveSource, wanted: Collection[str] | None) -> Replay:
    """A made drive with all the signals that it has, or those that are wanted."""
    paths = sorted(VSS if wanted is None else wanted)
    places = {path: index for index, path in enumerate(paths)}
    table = recording_table(made_drive(source.seed, source.minutes * 60), places, "made")
    limits = [Limits.of_catalogue(path) for path in paths]
    return Replay(lambda: [(table, _MADE_GAP_S)], limits, source.rate_hz)


def feed_name(number: int, table: FeedTable) -> str:
    """What a feed is called in messages."""
    what = table.channel if isinstance(table, CanFeed) else table.device if isinstance(table, NmeaFeed) else table.path
    return f"{table.name or f'feed {number}'} ({what})"


def _recorded(
    table: CanLogFeed | CsvFeed | NpzTableFeed | LayoutFeed | NmeaLogFeed,
    directory: Path,
    named: Sequence[MappedSignal],
    free: dict[str, int],
    name: str,
) -> RecordedFeed:
    path = directory / table.path
    if not path.exists():
        raise ConfigError(f"{path}: there is no such file")
    if isinstance(table, CanLogFeed):
        return CanLog(path, [directory / dbc for dbc in table.dbc], table.bus, named, name)
    if isinstance(table, CsvFeed):
        return open_csv(
            path, time=table.time, time_unit=table.time_unit, delimiter=table.delimiter, signals=named, name=name
        )
    if isinstance(table, NpzTableFeed):
        return open_npz(path, time=table.time, time_unit=table.time_unit, signals=named, name=name)
    if isinstance(table, LayoutFeed):
        return open_layout(path, table.drive, free, name)
    return NmeaLog(path, free, name)


def _connector(
    table: CanFeed | NmeaFeed, directory: Path, asked: Plan, number: int, open_can: OpenBus
) -> Callable[[], Connection]:
    if isinstance(table, NmeaFeed):
        return partial(NmeaDevice, table.device, table.baud, asked.free[number])
    database = load_dbc([directory / dbc for dbc in table.dbc])
    used = [find_signal(database, signal) for signal in asked.named[number]]
    return partial(CanConnection, table, used, open_can)
