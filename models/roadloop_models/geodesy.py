"""Positions on the WGS 84 ellipsoid."""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
_A_M = 6_378_137.0
_F = 1 / 298.257223563
_B_M = _A_M * (1 - _F)
_E2 = _F * (2 - _F)
_EP2 = _E2 / (1 - _E2)


def geodetic_from_ecef(ecef_m: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Latitude and longitude (degrees) and height (m) of earth-centred positions, float64 [n, 3].

    Bowring (1976), one step: below a micrometre near the ground.
    """
    x, y, z = ecef_m.T
    across = np.hypot(x, y)
    theta = np.arctan2(z * _A_M, across * _B_M)
    latitude = np.arctan2(z + _EP2 * _B_M * np.sin(theta) ** 3, across - _E2 * _A_M * np.cos(theta) ** 3)
    normal = _A_M / np.sqrt(1 - _E2 * np.sin(latitude) ** 2)
    # Of the two formulas for the height this one does not divide by the cosine at a pole.
    height = across * np.cos(latitude) + z * np.sin(latitude) - _A_M**2 / normal
    return np.degrees(latitude), np.degrees(np.arctan2(y, x)), height


def ecef_from_geodetic(latitude_deg: FloatArray, longitude_deg: FloatArray, height_m: FloatArray) -> FloatArray:
    """Earth-centred positions, float64 [n, 3], of latitudes and longitudes (degrees) and heights (m)."""
    latitude, longitude = np.radians(latitude_deg), np.radians(longitude_deg)
    normal = _A_M / np.sqrt(1 - _E2 * np.sin(latitude) ** 2)
    across = (normal + height_m) * np.cos(latitude)
    z = (normal * (1 - _E2) + height_m) * np.sin(latitude)
    return np.stack([across * np.cos(longitude), across * np.sin(longitude), z], axis=-1)


def enu_axes(latitude_deg: float, longitude_deg: float) -> FloatArray:
    """Unit vectors east, north, up as the rows of [3, 3]: `axes @ ecef_difference` is (east, north, up)."""
    la, lo = np.radians(latitude_deg), np.radians(longitude_deg)
    return np.array(
        [
            [-np.sin(lo), np.cos(lo), 0.0],
            [-np.sin(la) * np.cos(lo), -np.sin(la) * np.sin(lo), np.cos(la)],
            [np.cos(la) * np.cos(lo), np.cos(la) * np.sin(lo), np.sin(la)],
        ]
    )
