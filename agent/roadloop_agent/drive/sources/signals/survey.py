"""What a recorded log would give a source: `roadloop-agent validate --log`."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from roadloop_agent.drive.sources.signals.board import Tally
from roadloop_agent.drive.sources.signals.nmea import PATHS
from roadloop_agent.drive.sources.signals.opening import open_replay
from roadloop_agent.signals_config import (
    CanFeed,
    CanLogFeed,
    CsvFeed,
    FeedTable,
    LayoutFeed,
    LiveFeedTable,
    NmeaFeed,
    NmeaLogFeed,
    NpzTableFeed,
    SignalsSource,
    SignalTable,
    feed_of,
)
from roadloop_models.errors import ConfigError, RoadloopError
from roadloop_models.signals import VSS, Quality

_SUFFIXES: dict[type[msgspec.Struct], tuple[str, ...]] = {
    CanFeed: (".log", ".blf", ".asc", ".npz"),
    CanLogFeed: (".log", ".blf", ".asc", ".npz"),
    NmeaFeed: (".nmea", ".txt"),
    NmeaLogFeed: (".nmea", ".txt"),
    CsvFeed: (".csv",),
    NpzTableFeed: (".npz",),
    LayoutFeed: (".csv", ".npz", ".txt"),
}
_OF_ITSELF = "of itself"


@dataclass(frozen=True)
class LogChoice:
    """`[FEED=]PATH[#BUS]` of the command line."""

    path: Path
    feed: str | None = None
    bus: str | None = None

    @classmethod
    def parse(cls, text: str) -> "LogChoice":
        """A path that has `=` or `#` in it as it is, where there is such a file."""
        if Path(text).exists():
            return cls(Path(text))
        rest, hash_sign, bus = text.rpartition("#")
        rest, bus = (rest, bus) if hash_sign else (text, "")
        feed, equals, path = rest.partition("=")
        return cls(Path(path if equals else rest), feed if equals else None, bus or None)


@dataclass(frozen=True)
class SignalReport:
    """What a log has of one signal. Shares are of the frames that the slots would have got."""

    path: str
    origin: str
    unit: str
    values: int
    rate_hz: float
    low: float | None
    high: float | None
    ok_share: float
    never_share: float
    stale_share: float
    out_of_range_share: float
    frozen_share: float


@dataclass(frozen=True)
class Survey:
    """What a source would give."""

    signals: dict[str, SignalReport]
    unchecked: frozenset[str]
    """Signals of live feeds that no log was given for."""
    troubles: tuple[str, ...]
    seconds: float


def survey(source: SignalsSource, directory: Path, logs: Sequence[LogChoice], wanted: Collection[str]) -> Survey:
    """Run the logs through the source as it is configured; a live feed without a log is left out.

    Raises ConfigError where a log fits no feed or several, where a message has another length than in the DBC, and
    whatever reading the logs raises.
    """
    feeds = _with_logs(source, logs)
    kept = tuple(feed for feed in feeds if not isinstance(feed, LiveFeedTable))
    gone = frozenset(number for number, feed in enumerate(feeds) if isinstance(feed, LiveFeedTable))
    unchecked = frozenset(path for path in {*wanted, *source.signals} if _is_of(source, path, gone))
    tables = {path: table for path, table in source.signals.items() if path not in unchecked}
    recorded = SignalsSource(rate_hz=source.rate_hz, feeds=kept, signals=tables)
    troubles: dict[str, RoadloopError] = {}
    replay = open_replay(recorded, directory, [path for path in wanted if path not in unchecked])
    first_s = last_s = 0.0
    for item in replay.frames(lambda error: troubles.update({str(error): error})):
        last_s = item.data.t_s
        first_s = first_s if item.number else last_s
    for error in reversed(troubles.values()):
        if isinstance(error, ConfigError):
            raise error
    seconds = last_s - first_s + 1 / source.rate_hz
    return Survey(
        signals={
            limits.path: _report(limits.path, source.signals.get(limits.path), tally, seconds)
            for limits, tally in zip(replay.board.limits, replay.board.tallies, strict=True)
        },
        unchecked=unchecked,
        troubles=tuple(troubles),
        seconds=seconds,
    )


def check_slot(where: str, needs: Sequence[str], uses: Sequence[str], found: Survey) -> None:
    """Raises ConfigError naming the first signal that the log never has and that is needed, or that the profile names.

    Where the log has nothing at all of what the slot takes, that is an error too.
    """
    taken = [found.signals[path] for path in (*needs, *uses) if path in found.signals]
    for report in taken:
        if report.values == 0 and (report.path in needs or report.origin != _OF_ITSELF):
            verb = "needs" if report.path in needs else "takes"
            raise ConfigError(
                f"{where}: {verb} {report.path} ({report.origin}), which the log never has: "
                "is it the log, the bus and the DBC of this vehicle?"
            )
    if taken and not any(report.values for report in taken):
        raise ConfigError(f"{where}: the log has none of the signals that it takes ({', '.join((*needs, *uses))})")


def _report(path: str, table: SignalTable | None, tally: Tally, seconds: float) -> SignalReport:
    frames = max(1, sum(tally.frames.values()))
    shares = {quality: count / frames for quality, count in tally.frames.items()}
    seen = tally.low <= tally.high
    return SignalReport(
        path=path,
        origin=_OF_ITSELF if table is None or table.from_ is None else table.from_,
        unit=VSS[path].unit,
        values=tally.values,
        rate_hz=tally.values / seconds,
        low=tally.low if seen else None,
        high=tally.high if seen else None,
        ok_share=shares[Quality.OK],
        never_share=shares[Quality.NEVER],
        stale_share=shares[Quality.STALE],
        out_of_range_share=shares[Quality.OUT_OF_RANGE],
        frozen_share=shares[Quality.FROZEN],
    )


def _with_logs(source: SignalsSource, logs: Sequence[LogChoice]) -> list[FeedTable]:
    feeds: list[FeedTable] = list(source.feeds)
    for log in logs:
        suffix = log.path.suffix.lower()
        fitting = [
            number
            for number, feed in enumerate(source.feeds)
            if (log.feed == feed.name if log.feed is not None else suffix in _SUFFIXES[type(feed)])
        ]
        if len(fitting) != 1:
            named = ", ".join(feed.name for feed in source.feeds if feed.name is not None) or "none has a name"
            raise ConfigError(
                f"--log {log.path}: fits {len(fitting)} feeds: say which one as --log FEED={log.path} ({named})"
            )
        feeds[fitting[0]] = _recorded(feeds[fitting[0]], log)
    return feeds


def _recorded(feed: FeedTable, log: LogChoice) -> FeedTable:
    path = str(log.path.resolve())
    if isinstance(feed, CanFeed):
        return CanLogFeed(name=feed.name, path=path, dbc=feed.dbc, bus=log.bus)
    if isinstance(feed, NmeaFeed):
        return NmeaLogFeed(name=feed.name, path=path)
    if isinstance(feed, CanLogFeed) and log.bus is not None:
        return msgspec.structs.replace(feed, path=path, bus=log.bus)
    return msgspec.structs.replace(feed, path=path)


def _is_of(source: SignalsSource, path: str, feeds: Collection[int]) -> bool:
    """Whether a signal comes from one of these feeds."""
    table = source.signals.get(path)
    number = None if table is None else feed_of(f"signals.'{path}'", table, source.feeds)
    if number is not None:
        return number in feeds
    return path in PATHS and any(isinstance(source.feeds[number], NmeaFeed) for number in feeds)
