"""The layouts of public data sets: which column is which signal. Infer, replay and evaluation read them through here.

A layout is known by its content (header or array names), never by where the file lies.
"""

import math
import struct
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from roadloop_models.data_files import check_readable, read_arrays
from roadloop_models.errors import DataError
from roadloop_models.geodesy import enu_axes, geodetic_from_ecef
from roadloop_models.recordings.columns import read_csv_columns, read_csv_header, read_csv_rows, read_npz_names
from roadloop_models.recordings.recording import FloatArray, Recording, merged
from roadloop_models.recordings.signal_table import is_signal_table, read_signals
from roadloop_models.signals import VSS, conversion

Map = Mapping[str, tuple[str, str]]
"""Column -> (VSS path without `Vehicle.`, the column's unit)."""

SPEED_REFERENCE: Map = {"obd_speed": ("Speed", "m/s"), "ref_vf": ("CurrentLocation.Speed", "m/s")}
"""NavINST'19 (Queen's University) at 5 Hz: the OBD speed beside a navigation-grade reference."""
RAW_OBD_SPEED: Map = {"odom_speed": ("Speed", "m/s")}
"""NavINST'19: the OBD speed as it came."""
KIT_OBD: Map = {
    "speed_kmh": ("OBD.Speed", "km/h"),
    "rpm": ("OBD.EngineSpeed", "rpm"),
    "coolant_c": ("OBD.CoolantTemperature", "degC"),
    "iat_c": ("OBD.IntakeTemp", "degC"),
    "map_kpa": ("OBD.MAP", "kPa"),
    "maf_gs": ("OBD.MAF", "g/s"),
    "throttle_pct": ("OBD.ThrottlePosition", "%"),
    "ambient_c": ("OBD.AmbientAirTemperature", "degC"),
    "pedal_d_pct": ("OBD.AcceleratorPositionD", "%"),
    "pedal_e_pct": ("OBD.AcceleratorPositionE", "%"),
}
"""KIT Automotive OBD-II data set, resampled to 2 Hz."""
CAR_OBD: Map = {
    "VEHICLE_SPEED": ("OBD.Speed", "km/h"),
    "ENGINE_RPM": ("OBD.EngineSpeed", "rpm"),
    "ENGINE_LOAD": ("OBD.EngineLoad", "%"),
    "COOLANT_TEMPERATURE": ("OBD.CoolantTemperature", "degC"),
    "INTAKE_AIR_TEMP": ("OBD.IntakeTemp", "degC"),
    "INTAKE_MANIFOLD_PRESSURE": ("OBD.MAP", "kPa"),
    "THROTTLE": ("OBD.ThrottlePosition", "%"),
    "ABSOLUTE_THROTTLE_B": ("OBD.ThrottlePositionB", "%"),
    "RELATIVE_THROTTLE_POSITION": ("OBD.RelativeThrottlePosition", "%"),
    "COMMANDED_THROTTLE_ACTUATOR": ("OBD.ThrottleActuator", "%"),
    "PEDAL_D": ("OBD.AcceleratorPositionD", "%"),
    "PEDAL_E": ("OBD.AcceleratorPositionE", "%"),
    "SHORT_TERM_FUEL_TRIM_BANK_1": ("OBD.ShortTermFuelTrim1", "%"),
    "LONG_TERM_FUEL_TRIM_BANK_1": ("OBD.LongTermFuelTrim1", "%"),
    "FUEL_AIR_COMMANDED_EQUIV_RATIO": ("OBD.CommandedEquivalenceRatio", "ratio"),
    "TIMING_ADVANCE": ("OBD.TimingAdvance", "deg"),
    "COMMANDED_EVAPORATIVE_PURGE": ("OBD.CommandedEVAP", "%"),
    "ABSOLUTE_BAROMETRIC_PRESSURE": ("OBD.BarometricPressure", "kPa"),
    "CATALYST_TEMPERATURE_BANK1_SENSOR1": ("OBD.Catalyst.Bank1.Temperature1", "degC"),
    "CATALYST_TEMPERATURE_BANK1_SENSOR2": ("OBD.Catalyst.Bank1.Temperature2", "degC"),
    "CONTROL_MODULE_VOLTAGE": ("OBD.ControlModuleVoltage", "V"),
    "FUEL_TANK": ("OBD.FuelLevel", "%"),
}
"""carOBD (Toyota Etios). Said to be at 1 Hz; by the car's own run time a row is 0.49 s in every log."""
IMU_AXES: Map = {
    "gyro_x": ("AngularVelocity.Roll", "deg/s"),
    "gyro_y": ("AngularVelocity.Pitch", "deg/s"),
    "gyro_z": ("AngularVelocity.Yaw", "deg/s"),
    "acc_x": ("Acceleration.Longitudinal", "g"),
    "acc_y": ("Acceleration.Lateral", "g"),
    "acc_z": ("Acceleration.Vertical", "g"),
}
_KIT_RATE_HZ, _CAR_RATE_HZ = 2.0, 2.0
_RTK_TAG = struct.Struct("<60xIId")
_RTK_POSITION = "gnss_1934_sf.pos"
_POS_COLUMNS = 17
_GPS_EPOCH_S = datetime(1980, 1, 6, tzinfo=UTC).timestamp()


def read_layout(path: Path) -> Iterator[Recording]:
    """The drives of a file (or folder) of a known public data set, one after the other.

    Raises DataError where the file is missing, broken, or of no layout that is known.
    """
    if path.is_dir():
        folder, path = path, path / "odom.txt"
        if not path.exists():
            raise DataError(f"{folder}: a folder is read where it has an odom.txt (smartLoc); name one of its files")
    check_readable(path)
    if path.suffix == ".npz":
        return _npz(path)
    if path.suffix == ".txt":
        return iter([_smartloc(path)])
    if path.with_name(path.name + ".tag").exists():
        return iter([_rtk_drive(path)])
    header = read_csv_header(path)
    if is_signal_table(header):
        return iter([read_signals(path)])
    for columns in (SPEED_REFERENCE, RAW_OBD_SPEED):
        if "gps_sec" in header and set(columns) <= set(header):
            table = read_csv_columns(path)
            return iter([Recording(path.stem, table["gps_sec"], mapped(table, columns))])
    raise DataError(
        f"{path}: no layout that is known (its header: {', '.join(header)[:200]}); map its columns in a profile"
    )


def mapped(table: Mapping[str, npt.NDArray[np.generic]], columns: Map) -> dict[str, FloatArray]:
    """VSS path -> column, float64 in the catalogue's unit."""
    values = {}
    for column, (short_path, unit) in columns.items():
        path = f"Vehicle.{short_path}"
        factor, offset = conversion(unit, VSS[path].unit)
        values[path] = table[column].astype(np.float64) * factor + offset
    return values


def _npz(path: Path) -> Iterator[Recording]:
    names = read_npz_names(path)
    if "raw_can_t" in names and "frame_positions" in names:
        return iter([_comma2k19(path)])
    if "columns" in names:
        columns = tuple(str(name) for name in read_arrays(path, {"columns": "U"})["columns"])
        drives = (
            read_arrays(path, {"names": "U"})["names"].tolist() if "names" in names else sorted(names - {"columns"})
        )
        for layout, rate_hz in ((KIT_OBD, _KIT_RATE_HZ), (CAR_OBD, _CAR_RATE_HZ)):
            if set(layout) <= set(columns):
                return _drives(path, drives, columns, layout, rate_hz)
    raise DataError(f"{path}: no layout that is known (it has {', '.join(sorted(names))[:200]})")


def _drives(path: Path, names: list[str], columns: tuple[str, ...], layout: Map, rate_hz: float) -> Iterator[Recording]:
    """One array [rows, columns] a drive, evenly sampled; each drive begins at 0 s. Empty ones are left out."""
    for name in names:
        rows = read_arrays(path, {name: "f"})[name]
        if rows.size == 0:
            continue
        if rows.ndim != 2 or rows.shape[1] != len(columns):
            raise DataError(f"{path}: field '{name}' is {list(rows.shape)}, expected [rows, {len(columns)}]")
        table = {column: rows[:, index] for index, column in enumerate(columns)}
        yield Recording(name, np.arange(len(rows)) / rate_hz, mapped(table, layout))


def _smartloc(path: Path) -> Recording:
    """smartLoc (TU Chemnitz): odometry, and the ground truth of a gt.txt beside it (libRSF's text format).

    The truth has positions alone. The yaw rate is positive to the left (checked against the truth).
    """
    odometry = _librsf(path, "odom3", 8)
    parts: list[tuple[FloatArray, Mapping[str, FloatArray]]] = [
        (odometry[:, 0], {"Vehicle.Speed": odometry[:, 1], "Vehicle.AngularVelocity.Yaw": odometry[:, 6]}),
    ]
    truth = path.with_name("gt.txt")
    if truth.exists():
        points = _librsf(truth, "point3", 5)
        parts.append((points[:, 0], _location(points[:, 1:4])))
    return merged(path.parent.name, parts)


def _librsf(path: Path, kind: str, at_least: int) -> FloatArray:
    check_readable(path)
    rows = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                words = line.split()
                if not words:
                    continue
                if words[0] != kind or len(words) < at_least:
                    raise DataError(f"{path}: line {number}: expected '{kind}' and {at_least - 1} numbers or more")
                rows.append([float(word) for word in words[1:at_least]])
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not libRSF text: {error}") from error
    if not rows:
        raise DataError(f"{path}: has no rows")
    return np.array(rows)


def _rtk_drive(path: Path) -> Recording:
    """An IMU log of RTKLIB's GNSS_IMU (with its .tag) and the RTK positions beside it; seconds of GPS time.

    The sensor is mounted turned by 180 degrees about z: x and y change their sign (checked against the positions).
    The tag's time is taken as it is: shifting it by the 0.125 s that the data's description speaks of brings the yaw
    rate further from the positions' course, not nearer.
    """
    rows = read_csv_rows(path)
    if rows.shape[1] != 7:
        raise DataError(f"{path}: {rows.shape[1]} columns, expected 3 of acceleration, 3 of turn rate and milliseconds")
    try:
        _, seconds, fraction = _RTK_TAG.unpack_from(path.with_name(path.name + ".tag").read_bytes())
    except (OSError, struct.error) as error:
        raise DataError(f"{path}.tag: no RTKLIB time tag: {error}") from error
    t_s = seconds + fraction - _GPS_EPOCH_S + (rows[:, 6] - rows[0, 6]) / 1000
    signs = {"acc_x": -1.0, "acc_y": -1.0, "acc_z": 1.0, "gyro_x": -1.0, "gyro_y": -1.0, "gyro_z": 1.0}
    table = {column: sign * rows[:, index] for index, (column, sign) in enumerate(signs.items())}
    parts: list[tuple[FloatArray, Mapping[str, FloatArray]]] = [(t_s, mapped(table, IMU_AXES))]
    position = path.with_name(_RTK_POSITION)
    if position.exists():
        parts.append(_rtklib_positions(position))
    return merged(path.stem, parts)


def _rtklib_positions(path: Path) -> tuple[FloatArray, dict[str, FloatArray]]:
    check_readable(path)
    t_s, rows = [], []
    try:
        with path.open(encoding="utf-8") as file:
            for words in (line.split() for line in file if line.strip() and not line.startswith("%")):
                stamp = datetime.strptime(f"{words[0]} {words[1]}", "%Y/%m/%d %H:%M:%S.%f").replace(tzinfo=UTC)
                t_s.append(stamp.timestamp() - _GPS_EPOCH_S)
                rows.append([float(word) for word in words[2:_POS_COLUMNS]])
        table = np.array(rows)
        latitude, longitude, height = table[:, :3].T
        sigma_m = np.hypot(table[:, 5], table[:, 6]) / math.sqrt(2)
        north_mps, east_mps = table[:, 12], table[:, 13]
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{path}: not positions of RTKLIB with velocities: {error}") from error
    return np.array(t_s), {
        "Vehicle.CurrentLocation.Latitude": latitude,
        "Vehicle.CurrentLocation.Longitude": longitude,
        "Vehicle.CurrentLocation.Altitude": height,
        "Vehicle.CurrentLocation.HorizontalAccuracy": sigma_m,
        **_course(east_mps, north_mps),
    }


def _comma2k19(path: Path) -> Recording:
    """A segment of comma2k19: decoded CAN, IMU, and the post-processed positions of the camera's frames.

    The device's axes are forward, right, down (checked against the positions): y and z change their sign.
    """
    kinds = {"CAN_speed": 1, "CAN_wheel_speed": 4, "CAN_steering_angle": 1, "IMU_accelerometer": 3, "IMU_gyro": 3}
    fields = [f"{kind}_{part}" for kind in kinds for part in ("t", "value")]
    frames = ("frame_times", "frame_positions", "frame_velocities")
    arrays = read_arrays(path, dict.fromkeys((*fields, *frames), "f"))
    floats = {name: array.astype(np.float64) for name, array in arrays.items()}
    speed, wheels, steering, acceleration, gyro = (
        floats[f"{kind}_value"].reshape(len(floats[f"{kind}_t"]), width) for kind, width in kinds.items()
    )
    front_left, front_right, rear_left, rear_right = (f"Vehicle.Chassis.Axle.{wheel}.Speed" for wheel in _WHEELS)
    positions_m, velocities = floats["frame_positions"], floats["frame_velocities"]
    location = _location(positions_m)
    axes = enu_axes(location["Vehicle.CurrentLocation.Latitude"][0], location["Vehicle.CurrentLocation.Longitude"][0])
    east_mps, north_mps, _ = axes @ velocities.T
    parts: list[tuple[FloatArray, Mapping[str, FloatArray]]] = [
        (floats["CAN_speed_t"], {"Vehicle.Speed": speed[:, 0]}),
        (
            floats["CAN_wheel_speed_t"],
            dict(zip((front_left, front_right, rear_left, rear_right), wheels.T, strict=True)),
        ),
        (floats["CAN_steering_angle_t"], {"Vehicle.Chassis.SteeringWheel.Angle": np.radians(steering[:, 0])}),
        (
            floats["IMU_accelerometer_t"],
            {
                "Vehicle.Acceleration.Longitudinal": acceleration[:, 0],
                "Vehicle.Acceleration.Lateral": -acceleration[:, 1],
                "Vehicle.Acceleration.Vertical": -acceleration[:, 2],
            },
        ),
        (
            floats["IMU_gyro_t"],
            {
                "Vehicle.AngularVelocity.Roll": gyro[:, 0],
                "Vehicle.AngularVelocity.Pitch": -gyro[:, 1],
                "Vehicle.AngularVelocity.Yaw": -gyro[:, 2],
            },
        ),
        (floats["frame_times"], location | _course(east_mps, north_mps)),
    ]
    return merged(path.stem, parts)


_WHEELS = ("Row1.Wheel.Left", "Row1.Wheel.Right", "Row2.Wheel.Left", "Row2.Wheel.Right")


def _location(ecef_m: FloatArray) -> dict[str, FloatArray]:
    latitude, longitude, height = geodetic_from_ecef(ecef_m)
    return {
        "Vehicle.CurrentLocation.Latitude": latitude,
        "Vehicle.CurrentLocation.Longitude": longitude,
        "Vehicle.CurrentLocation.Altitude": height,
    }


def _course(east_mps: FloatArray, north_mps: FloatArray) -> dict[str, FloatArray]:
    return {
        "Vehicle.CurrentLocation.Speed": np.hypot(east_mps, north_mps),
        "Vehicle.CurrentLocation.Heading": np.arctan2(east_mps, north_mps) % (2 * math.pi),
    }
