"""How a rollout's vehicles are cut into waves."""

import hashlib
import math
from collections.abc import Iterable, Sequence

import msgspec

from roadloop_cloud.rollout.spec import Ramp
from roadloop_models.errors import ConfigError
from roadloop_models.typed import from_builtins


def wave_sizes(waves: Sequence[str], vehicles: int) -> tuple[int, ...]:
    """How many vehicles each wave adds.

    Every entry says how many vehicles have the release when its wave is through: a count (`"1"`) or a share of all
    (`"50%"`, rounded up). A wave that adds none is left out. Raises ConfigError where an entry is malformed, they do
    not rise, or the last one does not reach all.
    """
    reached, sizes = 0, []
    for entry in waves:
        upto = min(_upto(entry.strip(), vehicles), vehicles)
        if upto < reached:
            raise ConfigError(f"waves {','.join(waves)}: '{entry}' is {upto} vehicles, but {reached} have it by then")
        if upto > reached:
            sizes.append(upto - reached)
        reached = upto
    if reached < vehicles:
        raise ConfigError(f"waves {','.join(waves)}: reach {reached} of {vehicles} vehicles; end with 100%")
    return tuple(sizes)


def wave_order(vehicles: Iterable[str], online: frozenset[str], salt: str) -> list[str]:
    """Vehicles in the order in which they join: those online first, since the first wave must be able to answer.

    Among equals a hash decides, so that it is not the same vehicle that goes first every time.
    """

    def key(vehicle: str) -> tuple[bool, bytes]:
        return vehicle not in online, hashlib.sha256(f"{salt}/{vehicle}".encode()).digest()

    return sorted(vehicles, key=key)


def parse_ramp(text: str) -> Ramp:
    """`1x2`: one vehicle first, then twice as many as have succeeded. Raises ConfigError."""
    first, _, factor = text.partition("x")
    try:
        return from_builtins({"first": int(first), "factor": float(factor)}, Ramp)
    except (ValueError, msgspec.ValidationError):
        raise ConfigError(f"ramp '{text}': expected FIRSTxFACTOR such as 1x2, the factor above 1") from None


def ramp_sizes(ramp: Ramp, vehicles: int) -> tuple[int, ...]:
    """The waves of a ramp where every vehicle succeeds."""
    sizes: list[int] = []
    left = vehicles
    while left:
        grown = ramp.first if not sizes else max(ramp.first, math.ceil(ramp.factor * sizes[-1]))
        sizes.append(min(grown, left))
        left -= sizes[-1]
    return tuple(sizes)


def _upto(entry: str, vehicles: int) -> int:
    try:
        if entry.endswith("%"):
            share = float(entry[:-1])
            if not 0 < share <= 100:
                raise ValueError
            return math.ceil(vehicles * share / 100 - 1e-9)
        count = int(entry)
        if count < 1:
            raise ValueError
        return count
    except ValueError:
        raise ConfigError(f"wave '{entry}': expected a count from 1, or a share above 0% and up to 100%") from None
