"""A CAN log as a recording, where no profile says which signal is what: the names of DBC files that are known."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from roadloop_agent.drive.frames import Reported
from roadloop_agent.drive.sources.signals.can_log import CanLog
from roadloop_agent.drive.sources.signals.dbc import load_dbc
from roadloop_agent.drive.sources.signals.mapping import MappedSignal
from roadloop_models.errors import ConfigError, DataError
from roadloop_models.recordings import Recording, merged

TOYOTA = {
    "Vehicle.Speed": "SPEED.SPEED",
    "Vehicle.Chassis.Axle.Row1.Wheel.Left.Speed": "WHEEL_SPEEDS.WHEEL_SPEED_FL",
    "Vehicle.Chassis.Axle.Row1.Wheel.Right.Speed": "WHEEL_SPEEDS.WHEEL_SPEED_FR",
    "Vehicle.Chassis.Axle.Row2.Wheel.Left.Speed": "WHEEL_SPEEDS.WHEEL_SPEED_RL",
    "Vehicle.Chassis.Axle.Row2.Wheel.Right.Speed": "WHEEL_SPEEDS.WHEEL_SPEED_RR",
    "Vehicle.AngularVelocity.Yaw": "KINEMATICS.YAW_RATE",
    "Vehicle.Chassis.SteeringWheel.Angle": "STEER_ANGLE_SENSOR.STEER_ANGLE",
}
"""As opendbc names them; the only ones that were tried."""


def can_recording(path: Path, dbc: Sequence[Path], bus: int | str | None, passed_over: Reported) -> Recording:
    """The known signals of a log, each at the times of its frames.

    Raises ConfigError where the DBC has none of the known names or another length than the log, DataError where the log
    has none of them or is broken from its start.
    """
    database = load_dbc(dbc)
    there = {f"{message.name}.{signal.name}" for message in database.messages for signal in message.signals}
    known = [(signal, name) for signal, name in TOYOTA.items() if name in there]
    if not known:
        raise ConfigError(
            f"{', '.join(map(str, dbc))}: has none of the names that are known without a profile "
            f"({', '.join(TOYOTA.values())}); map its signals in a profile, and check that with validate --log"
        )
    log = CanLog(path, dbc, bus, [MappedSignal(index, *signal) for index, signal in enumerate(known)], path.name)
    times: list[list[float]] = [[] for _ in known]
    values: list[list[float]] = [[] for _ in known]
    for t_s, updates in log.readings(passed_over):
        for index, value in updates:
            times[index].append(t_s)
            values[index].append(value)
    for trouble in log.troubles():
        raise trouble
    parts = [
        (np.array(times[index]), {signal: np.array(values[index])})
        for index, (signal, _) in enumerate(known)
        if times[index]
    ]
    if not parts:
        raise DataError(
            f"{path}: has no frame of {', '.join(name for _, name in known)}; is it the DBC of this vehicle?"
        )
    return merged(path.stem, parts)
