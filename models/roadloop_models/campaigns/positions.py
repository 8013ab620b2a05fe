"""Positions coarsened to a grid, before a campaign sees them or anything leaves the vehicle. Pure."""

import math
from collections.abc import Mapping

LATITUDE = "Vehicle.CurrentLocation.Latitude"
LONGITUDE = "Vehicle.CurrentLocation.Longitude"
_M_PER_DEG = 111_320.0
"""Of latitude, and of longitude at the equator (WGS 84's radius of 6378137 m)."""


def coarse(values: Mapping[str, float], position_m: float) -> dict[str, float]:
    """The same signals, latitude and longitude moved to the middle of their field of `position_m` metres; 0: as they
    are. A second time it changes nothing."""
    found = dict(values)
    latitude, longitude = found.get(LATITUDE, math.nan), found.get(LONGITUDE, math.nan)
    if position_m <= 0:
        return found
    if not math.isnan(latitude):
        found[LATITUDE] = latitude = _middle(latitude, position_m / _M_PER_DEG)
    if not math.isnan(longitude):
        # Without a latitude the fields cannot be made equal in metres, and a longitude alone is not told.
        step = position_m / (_M_PER_DEG * max(0.01, math.cos(math.radians(latitude))))
        found[LONGITUDE] = math.nan if math.isnan(latitude) else _middle(longitude, step)
    return found


def _middle(value: float, step: float) -> float:
    return (math.floor(value / step) + 0.5) * step
