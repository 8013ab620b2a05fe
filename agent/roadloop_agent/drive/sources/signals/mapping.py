"""What a source's tables ask for: which signals are on the board, with which limits, and which feed puts them there."""

from collections.abc import Collection
from dataclasses import dataclass

from roadloop_agent.drive.sources.signals.board import Limits
from roadloop_agent.signals_config import MappedFeed, SignalsSource, SignalTable, feed_of
from roadloop_models.signals import VSS, conversion


@dataclass(frozen=True)
class MappedSignal:
    """A signal that the profile names: its place on the board, and what it is called in its feed."""

    index: int
    path: str
    name: str
    unit: str | None = None
    scale: float = 1.0
    offset: float = 0.0

    def conversion(self, own_unit: str) -> tuple[float, float]:
        """(factor, offset) from the feed's values, which are in `own_unit` unless the profile says another.

        Raises ConfigError where that unit is not understood.
        """
        factor, offset = conversion(self.unit or own_unit, VSS[self.path].unit)
        return self.scale * factor, self.offset * factor + offset


@dataclass(frozen=True)
class Plan:
    """The board of a source, and for each feed what the profile names in it, and what it may put of itself."""

    limits: tuple[Limits, ...]
    named: tuple[tuple[MappedSignal, ...], ...]
    free: tuple[dict[str, int], ...]
    """For each feed VSS path -> place on the board: what a feed that knows its signals may put there."""


def plan(source: SignalsSource, wanted: Collection[str] | None) -> Plan:
    """What is needed for the `wanted` signals; without them for all that the source could give.

    Raises ConfigError.
    """
    paths = sorted(wanted) if wanted is not None else _all(source)
    named: list[list[MappedSignal]] = [[] for _ in source.feeds]
    free: list[dict[str, int]] = [{} for _ in source.feeds]
    for index, path in enumerate(paths):
        table = source.signals.get(path)
        at = None if table is None else feed_of(f"signals.'{path}'", table, source.feeds)
        if table is not None and at is not None and table.from_ is not None:
            named[at].append(MappedSignal(index, path, table.from_, table.unit, table.scale, table.offset))
            continue
        for feed, places in enumerate(free):
            if at in (None, feed) and not isinstance(source.feeds[feed], MappedFeed):
                places[path] = index
    limits = tuple(_limits(path, source.signals.get(path, _DEFAULT)) for path in paths)
    return Plan(limits, tuple(map(tuple, named)), tuple(free))


_DEFAULT = SignalTable()


def _all(source: SignalsSource) -> list[str]:
    if all(isinstance(feed, MappedFeed) for feed in source.feeds):
        return sorted(source.signals)
    return sorted(VSS)


def _limits(path: str, table: SignalTable) -> Limits:
    spec = VSS[path]
    return Limits(
        path=path,
        low=spec.low if table.min is None else table.min,
        high=spec.high if table.max is None else table.max,
        stale_s=spec.stale_s if table.stale_s is None else table.stale_s,
        frozen_s=table.frozen_s,
        rests_at=table.rests_at,
    )
