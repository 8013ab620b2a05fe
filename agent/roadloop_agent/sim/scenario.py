"""What happens to a fleet of twins, as a TOML file says it; strict, like every configuration.

Tables of `[[links]]`, `[[power]]` and `[[bad]]` are about a slice of the fleet: patterns of hardware and of vehicle
ids. Of several links or powers that fit a vehicle the first counts; every `[[bad]]` that fits counts.
"""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from roadloop_models.bundle.manifest import Name
from roadloop_models.errors import ConfigError
from roadloop_models.settings import read_settings

Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Moment = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Pattern = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all tables."""


class Slice(_Table, frozen=True, kw_only=True):
    """Which vehicles are meant."""

    hardware: Pattern = "*"
    vehicles: Pattern = "*"

    def fits(self, vehicle: str, hardware: str) -> bool:
        """Whether this vehicle is one of them."""
        return fnmatchcase(hardware, self.hardware) and fnmatchcase(vehicle, self.vehicles)


class Rates(_Table, frozen=True, kw_only=True):
    """`[rates]`: how busy a twin is."""

    health_every_s: Seconds = 5.0
    """How often drive tells of each slot: one sample of telemetry, and what an update is judged by."""
    decisions_per_s: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 10.0
    batch_samples: Annotated[int, msgspec.Meta(ge=1, le=500)] = 100
    batch_age_s: Seconds = 10.0
    tick_s: Annotated[float, msgspec.Meta(ge=0.1, le=60)] = 1.0
    """How often a twin that nothing happens to looks at the time."""
    start_within_s: Moment = 0.0
    """Twins start at an even pace within this time."""


class Link(Slice, frozen=True, kw_only=True):
    """`[[links]]`: a connection that is lost, hangs or mixes up what it carries. Times are means."""

    drop_every_s: Seconds | None = None
    drop_for_s: Seconds = 5.0
    """Without coverage: attempts to connect fail."""
    stall_every_s: Seconds | None = None
    stall_for_s: Seconds = 5.0
    """Nothing comes and nothing goes, and nobody says so."""
    reorder_s: Moment = 0.0
    """Each message is late by up to this, in both directions, so a later one may come first."""


class Power(Slice, frozen=True, kw_only=True):
    """`[[power]]`: cuts. A twin comes back with what it had written down. Times are means."""

    cut_every_s: Seconds
    off_for_s: Seconds = 5.0


class Bad(Slice, frozen=True, kw_only=True):
    """`[[bad]]`: a version that is bad on some vehicles, and how.

    `golden`: it does not reproduce its golden vectors. `errors`: `share` of its inferences fail. `latency`: each takes
    100 times as long as with another version.
    """

    task: Name
    version: Name
    effect: Literal["golden", "errors", "latency"]
    share: Share = 0.5


class Scenario(_Table, frozen=True, kw_only=True):
    """The file as a whole. The same seed gives every twin the same faults at the same times since its start."""

    seed: int = 0
    rates: Rates = Rates()
    links: tuple[Link, ...] = ()
    power: tuple[Power, ...] = ()
    bad: tuple[Bad, ...] = ()


SliceT = TypeVar("SliceT", bound=Slice)


class Fate(_Table, frozen=True, kw_only=True):
    """What a scenario has for one vehicle."""

    rates: Rates
    link: Link | None
    power: Power | None
    bad: tuple[Bad, ...]

    def of_version(self, task: str, version: str) -> Bad | None:
        """How a version is bad here; None: it is sound."""
        return next((bad for bad in self.bad if (bad.task, bad.version) == (task, version)), None)


def load_scenario(path: Path) -> Scenario:
    """Read a scenario. Raises ConfigError naming file, field and the nearest known one."""
    scenario = read_settings(path, Scenario)
    if scenario.rates.batch_age_s < scenario.rates.health_every_s:
        raise ConfigError(f"{path}: rates.batch_age_s is below rates.health_every_s: each sample would be a batch")
    return scenario


def fate_of(scenario: Scenario, vehicle: str, hardware: str) -> Fate:
    """What the scenario has for that vehicle."""

    def first(slices: tuple[SliceT, ...]) -> SliceT | None:
        return next((each for each in slices if each.fits(vehicle, hardware)), None)

    return Fate(
        rates=scenario.rates,
        link=first(scenario.links),
        power=first(scenario.power),
        bad=tuple(bad for bad in scenario.bad if bad.fits(vehicle, hardware)),
    )
