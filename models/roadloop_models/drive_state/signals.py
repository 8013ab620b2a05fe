"""The OBD signals that drive-state reads, and the fixed numbers that bring each to the order of 1.

The numbers are chosen by a signal's physical range, not measured on a data set: cars differ, and a signal that
another car does not have is told to the model as unknown.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ObdSignal:
    """One input of the model: `(value - centre) / scale`, the value in the catalogue's unit of `path`."""

    name: str
    """The last part of the path: what decisions call the signal."""
    path: str
    """Its VSS path (`roadloop_models.signals.VSS`)."""
    centre: float
    scale: float


def _signal(name: str, centre: float, scale: float, branch: str = "") -> ObdSignal:
    return ObdSignal(name, f"Vehicle.OBD.{branch}{name}", centre, scale)


SIGNALS = (
    _signal("Speed", 20.0, 14.0),
    _signal("EngineSpeed", 1700.0, 800.0),
    _signal("EngineLoad", 45.0, 20.0),
    _signal("CoolantTemperature", 70.0, 25.0),
    _signal("IntakeTemp", 30.0, 25.0),
    _signal("MAP", 100.0, 50.0),
    _signal("MAF", 25.0, 35.0),
    _signal("ThrottlePosition", 45.0, 15.0),
    _signal("ThrottleActuator", 25.0, 12.0),
    _signal("AcceleratorPositionD", 30.0, 18.0),
    _signal("AcceleratorPositionE", 32.0, 18.0),
    _signal("AmbientAirTemperature", 15.0, 15.0),
    _signal("TimingAdvance", 5.0, 10.0),
    _signal("ShortTermFuelTrim1", 0.0, 5.0),
    _signal("Temperature1", 400.0, 150.0, "Catalyst.Bank1."),
    _signal("ControlModuleVoltage", 13.7, 0.4),
)
"""In the order of the model's input columns."""

NAMES = tuple(signal.name for signal in SIGNALS)
COUNT = len(SIGNALS)
SPEED = NAMES.index("Speed")
ODD_ABOVE = 2.0
"""A signal of a greater oddness is called odd, unless a vehicle is told otherwise."""
CLIP = 3.0
"""Scaled values are clipped to this: what lies outside is as odd as the border."""
