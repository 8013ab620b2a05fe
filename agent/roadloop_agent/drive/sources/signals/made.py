"""A made drive: motion, GNSS and OBD of a car in a town, from a seed. For vehicles without a bus, and for tests."""

import numpy as np
import numpy.typing as npt

from roadloop_models.geodesy import ecef_from_geodetic, enu_axes, geodetic_from_ecef
from roadloop_models.recordings import Recording, merged

FloatArray = npt.NDArray[np.float64]
STEP_S = 0.05
_GNSS_STEPS, _OBD_STEPS = 20, 10
_HOME_DEG = (48.0, 11.0)
_HEIGHT_M = 520.0
_GEARS_RPM_PER_MPS = (420.0, 240.0, 160.0, 118.0, 92.0)
_SHIFT_MPS = (4.0, 8.0, 13.0, 19.0)
_IDLE_RPM = 800.0


def made_drive(seed: int, duration_s: float) -> Recording:
    """Wheel speeds and turn rates at 20 Hz, GNSS at 1 Hz, OBD at 2 Hz; the same for the same seed.

    The odometer is off by up to 1 %, the gyro by up to 0.3 degrees/s: what an estimator has to find out.
    """
    random = np.random.default_rng(seed)
    t_s = np.arange(0.0, duration_s, STEP_S)
    speed = _speeds(random, t_s)
    acceleration = np.gradient(speed, STEP_S)
    yaw = _yaw_rates(random, t_s, speed)
    heading = random.uniform(0, 2 * np.pi) - np.cumsum(yaw) * STEP_S
    east_m = np.cumsum(speed * np.sin(heading)) * STEP_S
    north_m = np.cumsum(speed * np.cos(heading)) * STEP_S
    told = speed * (1 + random.uniform(-0.01, 0.01))
    told_yaw = yaw + random.uniform(-0.3, 0.3) * np.pi / 180 + random.normal(0, 0.002, len(t_s))
    half_track_m = 0.78
    motion = {
        "Vehicle.Speed": np.round(told / 0.01) * 0.01,
        "Vehicle.AngularVelocity.Yaw": told_yaw,
        "Vehicle.Acceleration.Longitudinal": acceleration + random.normal(0, 0.05, len(t_s)),
        "Vehicle.Acceleration.Lateral": speed * yaw + random.normal(0, 0.05, len(t_s)),
        "Vehicle.Acceleration.Vertical": 9.80665 + random.normal(0, 0.1, len(t_s)),
    }
    for row in ("Row1", "Row2"):
        motion[f"Vehicle.Chassis.Axle.{row}.Wheel.Left.Speed"] = told - half_track_m * yaw
        motion[f"Vehicle.Chassis.Axle.{row}.Wheel.Right.Speed"] = told + half_track_m * yaw
    gnss = slice(None, None, _GNSS_STEPS)
    obd = slice(None, None, _OBD_STEPS)
    return merged(
        f"made-{seed}",
        [
            (t_s, motion),
            (t_s[gnss], _location(random, east_m[gnss], north_m[gnss], speed[gnss], heading[gnss])),
            (t_s[obd], _obd(random, t_s[obd], speed[obd], acceleration[obd])),
        ],
    )


def _speeds(random: np.random.Generator, t_s: FloatArray) -> FloatArray:
    """Stretches at a wanted speed, with halts between some; m/s, never backwards."""
    wanted = np.zeros(len(t_s))
    at = 0
    while at < len(t_s):
        stretch = int(random.uniform(15, 70) / STEP_S)
        wanted[at : at + stretch] = random.choice([0.0, 8.3, 13.9, 16.7, 22.2], p=[0.2, 0.25, 0.3, 0.15, 0.1])
        at += stretch
    speed = np.empty(len(t_s))
    now = 0.0
    for step, target in enumerate(wanted.tolist()):
        now += min(max(target - now, -2.5 * STEP_S), 1.6 * STEP_S)
        speed[step] = max(0.0, now)
    return _smooth(speed, 20)


def _smooth(values: FloatArray, steps: int) -> FloatArray:
    padded = np.pad(values, (steps // 2, steps - steps // 2 - 1), "edge")
    return np.convolve(padded, np.ones(steps) / steps, "valid")


def _yaw_rates(random: np.random.Generator, t_s: FloatArray, speed: FloatArray) -> FloatArray:
    """Turns with lateral accelerations of up to 2 m/s^2; rad/s, to the left positive."""
    curvature = np.zeros(len(t_s))
    at = 0
    while at < len(t_s):
        at += int(random.uniform(5, 30) / STEP_S)
        length = int(random.uniform(3, 10) / STEP_S)
        curvature[at : at + length] = random.uniform(-1 / 15, 1 / 15)
        at += length
    most = 2.0 / np.maximum(speed, 1.0)
    return np.clip(_smooth(curvature, 40) * speed, -most, most)


def _location(
    random: np.random.Generator, east_m: FloatArray, north_m: FloatArray, speed: FloatArray, heading: FloatArray
) -> dict[str, FloatArray]:
    count = len(east_m)
    axes = enu_axes(*_HOME_DEG)
    home = ecef_from_geodetic(*(np.array([value]) for value in (*_HOME_DEG, _HEIGHT_M)))[0]
    offsets = np.stack([east_m, north_m, np.zeros(count)], axis=1) + random.normal(0, 0.8, (count, 3))
    latitude, longitude, height = geodetic_from_ecef(home + offsets @ axes)
    return {
        "Vehicle.CurrentLocation.Latitude": latitude,
        "Vehicle.CurrentLocation.Longitude": longitude,
        "Vehicle.CurrentLocation.Altitude": height,
        "Vehicle.CurrentLocation.Speed": np.abs(speed + random.normal(0, 0.05, count)),
        "Vehicle.CurrentLocation.Heading": (heading + random.normal(0, 0.01, count)) % (2 * np.pi),
        "Vehicle.CurrentLocation.HorizontalAccuracy": np.full(count, 0.8),
    }


def _obd(
    random: np.random.Generator, t_s: FloatArray, speed: FloatArray, acceleration: FloatArray
) -> dict[str, FloatArray]:
    count = len(t_s)
    gear = np.searchsorted(_SHIFT_MPS, speed)
    rpm = np.maximum(_IDLE_RPM, speed * np.array(_GEARS_RPM_PER_MPS)[gear]) + random.normal(0, 8, count)
    push = np.clip(0.12 + 0.012 * speed + 0.3 * np.maximum(acceleration, 0), 0, 1)
    pedal = np.where(acceleration > -0.2, np.where(speed > 0.1, push, 0), 0) * 70 + 15
    load = np.clip(18 + 70 * push + random.normal(0, 1, count), 0, 100)
    pressure = np.clip(32 + 65 * push + random.normal(0, 1, count), 20, 105)
    warm = 1 - np.exp(-t_s / 300)
    return {
        "Vehicle.OBD.Speed": np.floor(speed * 3.6) / 3.6,
        "Vehicle.OBD.EngineSpeed": rpm,
        "Vehicle.OBD.EngineLoad": load,
        "Vehicle.OBD.CoolantTemperature": np.round(18 + 72 * warm),
        "Vehicle.OBD.IntakeTemp": np.round(20 + 12 * warm + random.normal(0, 0.3, count)),
        "Vehicle.OBD.MAP": pressure,
        "Vehicle.OBD.MAF": rpm * pressure / 15_000,
        "Vehicle.OBD.ThrottlePosition": np.clip(pedal * 0.9 + 3, 0, 100),
        "Vehicle.OBD.AcceleratorPositionD": pedal,
        "Vehicle.OBD.AcceleratorPositionE": np.clip(pedal + random.normal(0, 0.2, count), 0, 100),
        "Vehicle.OBD.ShortTermFuelTrim1": random.normal(0, 2, count),
        "Vehicle.OBD.LongTermFuelTrim1": np.full(count, 1.5),
        "Vehicle.OBD.TimingAdvance": 12 + 10 * (1 - push) + random.normal(0, 0.5, count),
        "Vehicle.OBD.AmbientAirTemperature": np.full(count, 18.0),
        "Vehicle.OBD.BarometricPressure": np.full(count, 95.0),
        "Vehicle.OBD.ControlModuleVoltage": 14.1 + random.normal(0, 0.05, count),
        "Vehicle.OBD.FuelLevel": np.maximum(60 - t_s / 1200, 5.0),
    }
