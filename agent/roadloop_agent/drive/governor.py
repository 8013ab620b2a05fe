"""Who gives way when not everything can run: the slots of the lowest priority first. Pure: counts in, levels out.

Each level halves a slot's rate. Overload goes no further down than FLOOR; heat may pause. While a slot has lost any of
its rate, all of lower priority are at FLOOR or below. The way up is slower than the way down: one level of one slot at
a time, the highest priority first. A step up that brings the overload back doubles the wait before the next, so that a
load which stays the same is probed ever more rarely.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

FLOOR = 3
"""An eighth of the rate."""
PAUSED = FLOOR + 1
LATE_SHARE = 0.1
"""More than this share of a slot's frames late, in STRIKES periods one after the other, is overload."""
STRIKES = 2
CALM_PERIODS = 5
"""So many periods without overload come before the first step up."""
CALM_PERIODS_MAX = 1280


class Band(IntEnum):
    """How hot the vehicle's computer is."""

    NORMAL = 0
    WARM = 1
    HOT = 2
    CRITICAL = 3


@dataclass(frozen=True, slots=True)
class Load:
    """One slot in the last period: frames decided about or given up as too old, and how many of them were late.

    `busy_s` is how long its thread worked on them.
    """

    priority: int
    frames: int = 0
    late: int = 0
    busy_s: float = 0.0


@dataclass(frozen=True)
class Governed:
    """What was decided before: each slot's level (0: its full rate), and the patience for the next step up."""

    levels: Mapping[str, int] = field(default_factory=dict)
    strikes: Mapping[str, int] = field(default_factory=dict)
    calm: int = 0
    patience: int = CALM_PERIODS
    probing: bool = False
    """Whether a step up was made so lately that overload now would be its doing."""


def share(level: int) -> float:
    """The share of its frames that a slot gets at this level."""
    return 0.0 if level >= PAUSED else 1.0 / (1 << level)


def govern(before: Governed, loads: Mapping[str, Load], band: Band) -> Governed:
    """The levels for the next period."""
    least = heat_levels({name: load.priority for name, load in loads.items()}, band)
    levels = {name: max(before.levels.get(name, 0), least[name]) for name in loads}
    strikes = {
        name: before.strikes.get(name, 0) + 1 if load.late > LATE_SHARE * load.frames else 0
        for name, load in loads.items()
    }
    if any(count >= STRIKES for count in strikes.values()):
        patience = min(2 * before.patience, CALM_PERIODS_MAX) if before.probing else before.patience
        return Governed(_shed(levels, loads), {}, 0, patience)
    if any(strikes.values()):
        return Governed(levels, strikes, 0, before.patience, before.probing)
    calm = before.calm + 1
    if calm < before.patience:
        return Governed(levels, strikes, calm, before.patience, before.probing)
    # The last step up has held for so long: the next one is as near as the first was.
    patience = CALM_PERIODS if before.probing else before.patience
    recovered = _recover(levels, least, loads)
    return Governed(recovered, strikes, 0, patience, recovered != levels)


def heat_levels(priorities: Mapping[str, int], band: Band) -> dict[str, int]:
    """The least level of each slot in a band.

    Warm halves the lowest priority; hot leaves all but the highest an eighth; critical pauses all but the highest.
    Where all have the same priority none is paused: half, a quarter, an eighth.
    """
    highest, lowest = max(priorities.values(), default=0), min(priorities.values(), default=0)
    if highest == lowest:
        return dict.fromkeys(priorities, int(band))
    below_highest = {Band.NORMAL: 0, Band.WARM: 0, Band.HOT: FLOOR, Band.CRITICAL: PAUSED}[band]
    levels = {name: below_highest if priority < highest else 0 for name, priority in priorities.items()}
    if band == Band.WARM:
        levels |= {name: 1 for name, priority in priorities.items() if priority == lowest}
    return levels


def _shed(levels: Mapping[str, int], loads: Mapping[str, Load]) -> dict[str, int]:
    """One level off the lowest priority that has rate left; of its slots the busiest."""
    able = [name for name, level in levels.items() if level < FLOOR]
    if not able:
        return dict(levels)
    chosen = min(able, key=lambda name: (loads[name].priority, -loads[name].busy_s, name))
    return {**levels, chosen: levels[chosen] + 1}


def _recover(levels: Mapping[str, int], least: Mapping[str, int], loads: Mapping[str, Load]) -> dict[str, int]:
    """One level back to the highest priority that lost any; of its slots the one that lost most."""
    able = [name for name, level in levels.items() if level > least[name]]
    if not able:
        return dict(levels)
    chosen = min(able, key=lambda name: (-loads[name].priority, -levels[name], name))
    return {**levels, chosen: levels[chosen] - 1}
