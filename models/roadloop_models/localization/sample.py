"""What is known at one moment: the vehicle's own motion, and a reference where one is seen."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

_LOCATION = "Vehicle.CurrentLocation"
SPEED_SIGNALS = ("Vehicle.Speed", "Vehicle.OBD.Speed")
"""Where the odometer's speed comes from: the first that is there; before the second, the mean of the wheels."""
WHEEL_SIGNALS = tuple(
    f"Vehicle.Chassis.Axle.Row{row}.Wheel.{side}.Speed" for row in (1, 2) for side in ("Left", "Right")
)
YAW_SIGNAL = "Vehicle.AngularVelocity.Yaw"
_MOVES_MPS = 0.3
_Key = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """What GNSS or another reference says: a speed over ground, a position, or both."""

    speed_mps: float | None = None
    latitude_deg: float | None = None
    longitude_deg: float | None = None
    course_rad: float | None = None
    """Clockwise from north."""
    accuracy_m: float | None = None
    """One sigma of the position, on each axis."""

    @property
    def has_position(self) -> bool:
        """Whether it knows where the vehicle is."""
        return self.latitude_deg is not None and self.longitude_deg is not None


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment of source time; None where nothing is known now."""

    t_s: float
    speed_mps: float | None = None
    """Of the odometer, negative backwards."""
    yaw_rate_rps: float | None = None
    """Positive to the left."""
    reference: Reference | None = None


class SampleReader:
    """From values of signals to samples. Remembers the last reference, because sources repeat what did not change."""

    def __init__(self) -> None:
        self._last: _Key | None = None
        self._moves = False

    def __call__(self, t_s: float, values: Mapping[str, float]) -> Sample:
        """`values` are VSS path -> value in the catalogue's unit; NaN and missing mean the same.

        A reference that repeats itself while the odometer says that the vehicle moves is a held value, of which
        nobody knows how old it is: it is not used.
        """
        speed_mps = _odometer(values)
        if speed_mps is not None:
            self._moves = abs(speed_mps) > _MOVES_MPS
        return Sample(t_s, speed_mps, _value(values, YAW_SIGNAL), self._reference(values))

    def _reference(self, values: Mapping[str, float]) -> Reference | None:
        latitude, longitude, speed, course, accuracy = (
            _value(values, f"{_LOCATION}.{name}")
            for name in ("Latitude", "Longitude", "Speed", "Heading", "HorizontalAccuracy")
        )
        known: _Key = (latitude, longitude, speed, course)
        if speed is None and (latitude is None or longitude is None):
            return None
        held = known == self._last and self._moves
        self._last = known
        return None if held else Reference(speed, latitude, longitude, course, accuracy)


def _odometer(values: Mapping[str, float]) -> float | None:
    speed = _value(values, SPEED_SIGNALS[0])
    if speed is not None:
        return speed
    wheels = [wheel for wheel in (_value(values, path) for path in WHEEL_SIGNALS) if wheel is not None]
    if len(wheels) == len(WHEEL_SIGNALS):
        return sum(wheels) / len(wheels)
    return _value(values, SPEED_SIGNALS[1])


def _value(values: Mapping[str, float], path: str) -> float | None:
    value = values.get(path)
    return value if value is not None and isfinite(value) else None
