"""How hot the computer is: the zones of sysfs, and the bands of `[thermal]` with their hysteresis."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

from roadloop_agent.drive.governor import Band
from roadloop_agent.hardware_config import ThermalTable

SYSFS = Path("/sys/class/thermal")
_PLAUSIBLE_C = (-40.0, 200.0)
"""Zones that are switched off read as -274, 0 kelvin or nothing."""


def band_of(before: Band, temperature_c: float, table: ThermalTable) -> Band:
    """The band now. A hotter one begins at its threshold; it ends `hysteresis_c` below."""
    reached = _band(temperature_c, table)
    return max(reached, min(before, _band(temperature_c + table.hysteresis_c, table)))


def _band(temperature_c: float, table: ThermalTable) -> Band:
    thresholds_c = (table.warm_c, table.hot_c, table.critical_c)
    return Band(sum(temperature_c >= threshold_c for threshold_c in thresholds_c))


def read_temperature(root: Path, zones: tuple[str, ...]) -> float | None:
    """The hottest of the zones whose type matches one of `zones` (all where there are none), degC; None without any."""
    temperatures_c = []
    for zone in sorted(root.glob("thermal_zone*")):
        try:
            kind = (zone / "type").read_text(encoding="ascii").strip()
            temperature_c = int((zone / "temp").read_text(encoding="ascii")) / 1000.0
        except (OSError, ValueError):  # a sensor that is switched off, or gone
            continue
        if (not zones or any(fnmatchcase(kind, wanted) for wanted in zones)) and _is_plausible(temperature_c):
            temperatures_c.append(temperature_c)
    return max(temperatures_c, default=None)


def zone_types(root: Path) -> list[str]:
    """What zones there are, by type: for messages."""
    kinds = []
    for path in sorted(root.glob("thermal_zone*/type")):
        try:
            kinds.append(path.read_text(encoding="ascii").strip())
        except (OSError, ValueError):
            continue
    return kinds


class Thermometer:
    """The band and the temperature as last read."""

    def __init__(self, table: ThermalTable, root: Path, say: Callable[[str], None]) -> None:
        """`say` is told of every change of band, and once where there is nothing to read."""
        self._table = table
        self._root = root
        self._say = say
        self._said = False
        self.band = Band.NORMAL
        self.temperature_c: float | None = None

    def read(self) -> Band:
        """Read again. Without a temperature the band stays what it was."""
        self.temperature_c = read_temperature(self._root, self._table.zones)
        if self.temperature_c is not None:
            before, self.band = self.band, band_of(self.band, self.temperature_c, self._table)
            if self.band != before:
                self._say(f"temperature: {self.band.name.lower()}, at {self.temperature_c:.1f} degC")
            self._said = False
        elif not self._said:
            known = ", ".join(zone_types(self._root)) or "none"
            self._say(f"[thermal]: no temperature can be read in {self._root}; its zones are: {known}")
            self._said = True
        return self.band


def _is_plausible(temperature_c: float) -> bool:
    lowest_c, highest_c = _PLAUSIBLE_C
    return lowest_c < temperature_c < highest_c
