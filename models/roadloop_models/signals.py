"""Signals of a vehicle: the one catalogue of the COVESA VSS paths that we use, their units, and what a slot gets.

The paths are those of the COVESA Vehicle Signal Specification. The units are our own, near SI: VSS says km/h and
degrees/s, here it is m/s and rad/s. Whatever a bus or a file sends is converted where it is read, so that nothing
behind a source converts again.

Axes are those of ISO 8855, as in VSS: x forward, y to the left, z up. A turn to the left has a positive yaw rate.
`Vehicle.CurrentLocation.Heading` is a compass course: clockwise from north. `Vehicle.CurrentLocation.Speed` is not in
VSS: the speed over ground that the GNSS receiver or another reference gives.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from roadloop_models.errors import ConfigError
from roadloop_models.settings import nearest


class Quality(IntEnum):
    """What is known about a signal's value at the time of a frame."""

    OK = 0
    NEVER = 1
    """It has not been seen since the source was opened."""
    STALE = 2
    """The last value is older than the signal's `stale_s` of source time."""
    OUT_OF_RANGE = 3
    """The last value is not finite, or outside the signal's range."""
    FROZEN = 4
    """The value has not changed for `frozen_s` of source time (checked only where that is configured)."""


@dataclass(frozen=True, slots=True)
class SignalFrame:
    """The signals of a source at one moment of source time.

    Every signal that a slot of the source asks for (`needs` and `uses` of its task) is in both mappings, whether the
    source has it or not: then it is NEVER.
    """

    t_s: float
    """Source time, seconds."""
    values: Mapping[str, float]
    """VSS path -> value in the catalogue's unit; NaN where the quality is not OK."""
    quality: Mapping[str, Quality]
    """VSS path -> what is known about its value."""


@dataclass(frozen=True, slots=True)
class SignalSpec:
    """A VSS path: the unit we use, the range of plausible values, and after what time without one it is stale."""

    path: str
    unit: str
    low: float
    high: float
    stale_s: float
    meaning: str


def _catalogue(*rows: tuple[str, str, float, float, float, str]) -> dict[str, SignalSpec]:
    return {f"Vehicle.{row[0]}": SignalSpec(f"Vehicle.{row[0]}", *row[1:]) for row in rows}


_WHEELS = tuple(
    (
        f"Chassis.Axle.Row{row}.Wheel.{side}.Speed",
        "m/s",
        -30.0,
        110.0,
        1.0,
        f"speed of the {which} {side.lower()} wheel",
    )
    for row, which in ((1, "front"), (2, "rear"))
    for side in ("Left", "Right")
)

VSS: dict[str, SignalSpec] = _catalogue(
    ("Speed", "m/s", -30.0, 110.0, 1.0, "speed of the vehicle, negative backwards"),
    *_WHEELS,
    ("AngularVelocity.Roll", "rad/s", -10.0, 10.0, 1.0, "turn rate about the x axis"),
    ("AngularVelocity.Pitch", "rad/s", -10.0, 10.0, 1.0, "turn rate about the y axis"),
    ("AngularVelocity.Yaw", "rad/s", -10.0, 10.0, 1.0, "turn rate about the z axis, positive to the left"),
    ("Acceleration.Longitudinal", "m/s^2", -80.0, 80.0, 1.0, "specific force along the x axis"),
    ("Acceleration.Lateral", "m/s^2", -80.0, 80.0, 1.0, "specific force along the y axis"),
    ("Acceleration.Vertical", "m/s^2", -80.0, 80.0, 1.0, "specific force along the z axis: +9.8 at rest"),
    ("Chassis.SteeringWheel.Angle", "rad", -20.0, 20.0, 1.0, "steering wheel, positive to the left"),
    ("CurrentLocation.Latitude", "deg", -90.0, 90.0, 2.5, "WGS 84 latitude"),
    ("CurrentLocation.Longitude", "deg", -180.0, 180.0, 2.5, "WGS 84 longitude"),
    ("CurrentLocation.Altitude", "m", -500.0, 9000.0, 2.5, "height"),
    ("CurrentLocation.Heading", "rad", 0.0, 2 * math.pi, 2.5, "course over ground, clockwise from north"),
    ("CurrentLocation.Speed", "m/s", 0.0, 110.0, 2.5, "speed over ground of GNSS or another reference (not in VSS)"),
    ("CurrentLocation.HorizontalAccuracy", "m", 0.0, 1000.0, 2.5, "one sigma of the horizontal position"),
    ("OBD.Speed", "m/s", 0.0, 71.0, 5.0, "PID 0D: vehicle speed"),
    ("OBD.EngineSpeed", "rpm", 0.0, 16_384.0, 5.0, "PID 0C: engine speed"),
    ("OBD.EngineLoad", "%", 0.0, 100.0, 5.0, "PID 04: calculated engine load"),
    ("OBD.CoolantTemperature", "degC", -40.0, 215.0, 30.0, "PID 05: engine coolant"),
    ("OBD.IntakeTemp", "degC", -40.0, 215.0, 30.0, "PID 0F: intake air"),
    ("OBD.MAP", "kPa", 0.0, 255.0, 5.0, "PID 0B: intake manifold absolute pressure"),
    ("OBD.MAF", "g/s", 0.0, 656.0, 5.0, "PID 10: air flow"),
    ("OBD.ThrottlePosition", "%", 0.0, 100.0, 5.0, "PID 11: throttle"),
    ("OBD.ThrottlePositionB", "%", 0.0, 100.0, 5.0, "PID 47: throttle, second sensor"),
    ("OBD.RelativeThrottlePosition", "%", 0.0, 100.0, 5.0, "PID 45: throttle, learned"),
    ("OBD.ThrottleActuator", "%", 0.0, 100.0, 5.0, "PID 4C: commanded throttle actuator"),
    ("OBD.AcceleratorPositionD", "%", 0.0, 100.0, 5.0, "PID 49: accelerator pedal"),
    ("OBD.AcceleratorPositionE", "%", 0.0, 100.0, 5.0, "PID 4A: accelerator pedal, second sensor"),
    ("OBD.ShortTermFuelTrim1", "%", -100.0, 100.0, 5.0, "PID 06: short term fuel trim, bank 1"),
    ("OBD.LongTermFuelTrim1", "%", -100.0, 100.0, 5.0, "PID 07: long term fuel trim, bank 1"),
    ("OBD.CommandedEquivalenceRatio", "ratio", 0.0, 2.0, 5.0, "PID 44: commanded air-fuel equivalence ratio"),
    ("OBD.TimingAdvance", "deg", -64.0, 64.0, 5.0, "PID 0E: timing advance before top dead centre"),
    ("OBD.CommandedEVAP", "%", 0.0, 100.0, 5.0, "PID 2E: commanded evaporative purge"),
    ("OBD.BarometricPressure", "kPa", 0.0, 255.0, 30.0, "PID 33: barometric pressure"),
    ("OBD.AmbientAirTemperature", "degC", -40.0, 215.0, 30.0, "PID 46: ambient air"),
    ("OBD.Catalyst.Bank1.Temperature1", "degC", -40.0, 6514.0, 30.0, "PID 3C: catalyst, bank 1, sensor 1"),
    ("OBD.Catalyst.Bank1.Temperature2", "degC", -40.0, 6514.0, 30.0, "PID 3E: catalyst, bank 1, sensor 2"),
    ("OBD.ControlModuleVoltage", "V", 0.0, 66.0, 30.0, "PID 42: control module voltage"),
    ("OBD.FuelLevel", "%", 0.0, 100.0, 60.0, "PID 2F: fuel tank"),
)
"""Every path that a source may give and a slot may take."""

_DIMENSIONS: dict[str, dict[str, tuple[float, float]]] = {
    "m/s": {"m/s": (1, 0), "km/h": (1 / 3.6, 0), "mph": (0.44704, 0), "kn": (1852 / 3600, 0)},
    "rad/s": {"rad/s": (1, 0), "deg/s": (math.pi / 180, 0)},
    "rad": {"rad": (1, 0), "deg": (math.pi / 180, 0)},
    "deg": {"deg": (1, 0), "rad": (180 / math.pi, 0)},
    "m/s^2": {"m/s^2": (1, 0), "g": (9.80665, 0)},
    "m": {"m": (1, 0), "ft": (0.3048, 0), "km": (1000, 0)},
    "degC": {"degC": (1, 0), "degF": (5 / 9, -160 / 9), "K": (1, -273.15)},
    "kPa": {"kPa": (1, 0), "hPa": (0.1, 0), "bar": (100, 0), "psi": (6.894757, 0)},
    "g/s": {"g/s": (1, 0), "kg/h": (1 / 3.6, 0)},
    "rpm": {"rpm": (1, 0)},
    "%": {"%": (1, 0), "ratio": (100, 0)},
    "ratio": {"ratio": (1, 0), "%": (0.01, 0)},
    "V": {"V": (1, 0), "mV": (0.001, 0)},
}
"""Unit of the catalogue -> unit that is understood -> (factor, offset)."""


def known_units(unit: str) -> tuple[str, ...]:
    """The units from which one of the catalogue can be had."""
    return tuple(_DIMENSIONS[unit])


def conversion(unit_from: str, unit_to: str) -> tuple[float, float]:
    """(factor, offset): a value in `unit_to`, a unit of the catalogue, is value * factor + offset.

    Raises ConfigError where the one cannot be had from the other.
    """
    known = _DIMENSIONS[unit_to]
    if unit_from not in known:
        raise ConfigError(f"unit '{unit_from}' cannot be converted to {unit_to}{nearest(unit_from, known)}")
    factor, offset = known[unit_from]
    return float(factor), float(offset)
