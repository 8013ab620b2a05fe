"""OBD drives: the layouts of kit_obd (drives.npz) and car_obd (logs.npz), read, split and written.

Both hold one float32 array [rows, columns] per drive beside `columns`; rows are half a second apart. (car_obd's notes
say 1 Hz, but its own run-time counter advances by 0.49 s a row in every log.)
"""

import re
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from roadloop_models.drive_state.signals import COUNT, NAMES
from roadloop_models.errors import DataError
from roadloop_models.tasks.base import Part
from roadloop_models.tasks.files import check_readable

FloatArray = npt.NDArray[np.float32]
Record = Literal["kit", "car"]

KIT_FILE = Path("kit_obd") / "drives.npz"
CAR_FILE = Path("car_obd") / "logs.npz"
KIT_TEST_SHARE = 14 / 63
"""The later drives of the record, by date."""
CAR_TEST_SHARE = 0.25
"""The later logs of each driving mode, by number."""
STARTER_SHARE = 0.25
MAX_DRIVES = 10_000
MAX_ROWS = 1_000_000

_KIT_COLUMNS = {
    "coolant_c": ("CoolantTemperature", 1.0),
    "map_kpa": ("MAP", 1.0),
    "rpm": ("EngineSpeed", 1.0),
    "speed_kmh": ("Speed", 1 / 3.6),
    "iat_c": ("IntakeTemp", 1.0),
    "maf_gs": ("MAF", 1.0),
    "throttle_pct": ("ThrottlePosition", 1.0),
    "ambient_c": ("AmbientAirTemperature", 1.0),
    "pedal_d_pct": ("AcceleratorPositionD", 1.0),
    "pedal_e_pct": ("AcceleratorPositionE", 1.0),
}
_CAR_COLUMNS = {
    "ENGINE_RPM": ("EngineSpeed", 1.0),
    "VEHICLE_SPEED": ("Speed", 1 / 3.6),
    "THROTTLE": ("ThrottlePosition", 1.0),
    "ENGINE_LOAD": ("EngineLoad", 1.0),
    "COOLANT_TEMPERATURE": ("CoolantTemperature", 1.0),
    "SHORT_TERM_FUEL_TRIM_BANK_1": ("ShortTermFuelTrim1", 1.0),
    "INTAKE_MANIFOLD_PRESSURE": ("MAP", 1.0),
    "PEDAL_D": ("AcceleratorPositionD", 1.0),
    "PEDAL_E": ("AcceleratorPositionE", 1.0),
    "COMMANDED_THROTTLE_ACTUATOR": ("ThrottleActuator", 1.0),
    "INTAKE_AIR_TEMP": ("IntakeTemp", 1.0),
    "TIMING_ADVANCE": ("TimingAdvance", 1.0),
    "CATALYST_TEMPERATURE_BANK1_SENSOR1": ("Temperature1", 1.0),
    "CONTROL_MODULE_VOLTAGE": ("ControlModuleVoltage", 1.0),
}
"""Column of a file -> signal, and the factor to the catalogue's unit."""

_STATES = {"Frei": 0, "Normal": 1, "Stau": 2}
UNKNOWN_STATE = -1
_KNOWN_FAULT = "Messfehler"
"""In the name of a drive whose record says that a sensor failed: it is not an example of sound signals."""


@dataclass(frozen=True)
class ObdDrive:
    """One drive: rows half a second apart."""

    name: str
    record: Record
    values: FloatArray
    """float32 [rows, signals] in the catalogue's units, NaN where unknown."""

    @property
    def state(self) -> int:
        """Index of the traffic state that its name tells; UNKNOWN_STATE where it tells none."""
        return next((index for word, index in _STATES.items() if word in self.name.split("_")), UNKNOWN_STATE)

    @property
    def sound(self) -> bool:
        """Whether its record says nothing of a sensor that failed."""
        return _KNOWN_FAULT not in self.name


def read_kit(path: Path) -> list[ObdDrive]:
    """The drives of a `drives.npz`, in the order of its `names`. Raises DataError naming file and field."""
    return _read(path, "kit", _KIT_COLUMNS, lambda archive: [str(name) for name in archive["names"]])


def read_car(path: Path) -> list[ObdDrive]:
    """The logs of a `logs.npz` by mode and number; an empty log is left out. Raises DataError naming file and field."""
    return _read(path, "car", _CAR_COLUMNS, lambda archive: sorted(set(archive.files) - {"columns"}, key=_mode))


def load_training_drives(data_dir: Path, part: Part) -> list[ObdDrive]:
    """One part of the training drives of both records. Raises DataError naming file and field.

    The split is by drive: the later drives of kit_obd and the later logs of each mode of car_obd are for testing. The
    starter part is the first quarter of what is left, of each.
    """
    found: list[ObdDrive] = []
    for drives, test_share in _groups(data_dir):
        stop = len(drives) if part == "snapshot" else len(drives) - round(len(drives) * test_share)
        cut = max(round(stop * STARTER_SHARE), 1)
        start, stop = {"starter": (0, cut), "rest": (cut, stop)}.get(part, (0, stop))
        found += drives[start:stop]
    return found


def load_test_drives(data_dir: Path, record: Record) -> list[ObdDrive]:
    """The test drives of one record. Raises DataError naming file and field."""
    return [
        drive
        for drives, test_share in _groups(data_dir)
        for drive in drives[len(drives) - round(len(drives) * test_share) :]
        if drive.record == record
    ]


def hold_out(drives: Iterable[ObdDrive], share: float) -> tuple[list[ObdDrive], list[ObdDrive]]:
    """(drives to fit, drives to validate with): the last of each record and mode, at least one of each."""
    fit: list[ObdDrive] = []
    held: list[ObdDrive] = []
    for group in _by_mode(drives):
        cut = len(group) - max(round(len(group) * share), 1)
        fit += group[:cut]
        held += group[cut:]
    return fit, held


def write_drives(data_dir: Path, drives: Iterable[ObdDrive]) -> None:
    """Write drives in the layouts that `read_kit` and `read_car` read."""
    drives = list(drives)
    for record, file, columns in (("kit", KIT_FILE, _KIT_COLUMNS), ("car", CAR_FILE, _CAR_COLUMNS)):
        arrays: dict[str, npt.NDArray[np.generic]] = {
            drive.name: _file_columns(drive.values, columns) for drive in drives if drive.record == record
        }
        if not arrays:
            continue
        names = np.array(list(arrays))
        path = data_dir / file
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays |= {"columns": np.array(list(columns))} | ({"names": names} if record == "kit" else {})
        np.savez_compressed(path, allow_pickle=False, **arrays)


def _groups(data_dir: Path) -> list[tuple[list[ObdDrive], float]]:
    """Each record's drives that are split together, with the share of them that is for testing."""
    kit, car = data_dir / KIT_FILE, data_dir / CAR_FILE
    groups: list[tuple[list[ObdDrive], float]] = []
    # Either record will do: a fleet need not have both cars. With neither the error is that of the first.
    if kit.exists() or not car.exists():
        groups.append((read_kit(kit), KIT_TEST_SHARE))
    if car.exists():
        groups += [(logs, CAR_TEST_SHARE) for logs in _by_mode(read_car(car))]
    return groups


def _by_mode(drives: Iterable[ObdDrive]) -> list[list[ObdDrive]]:
    groups: dict[str, list[ObdDrive]] = {}
    for drive in drives:
        groups.setdefault("kit" if drive.record == "kit" else _mode(drive.name)[0], []).append(drive)
    return list(groups.values())


def _mode(name: str) -> tuple[str, int]:
    """`live12` -> ("live", 12)."""
    found = re.fullmatch(r"(\D*)(\d*)", name)
    return (name, 0) if found is None else (found[1], int(found[2] or 0))


def _read(
    path: Path,
    record: Record,
    columns: dict[str, tuple[str, float]],
    list_names: Callable[[np.lib.npyio.NpzFile], list[str]],
) -> list[ObdDrive]:
    check_readable(path)
    field = "columns"
    drives = []
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: is a single array, expected an npz of drives")
            header = [str(name) for name in archive["columns"]]
            missing = sorted(set(columns) - set(header))
            if missing:
                raise DataError(f"{path}: columns: has no '{missing[0]}'; it has {', '.join(header)}")
            field = "names"
            names = list_names(archive)[:MAX_DRIVES]
            for field in names:
                rows = archive[field]
                if rows.size:
                    drives.append(ObdDrive(field, record, _signal_columns(path, field, rows, header, columns)))
    except KeyError:
        raise DataError(f"{path}: has no field '{field}'") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: field '{field}': truncated or not an npz: {error}") from error
    if not drives:
        raise DataError(f"{path}: has no drives")
    return drives


def _signal_columns(
    path: Path,
    field: str,
    rows: npt.NDArray[np.generic],
    header: list[str],
    columns: dict[str, tuple[str, float]],
) -> FloatArray:
    if rows.ndim != 2 or rows.shape[1] != len(header) or rows.dtype.kind != "f" or len(rows) > MAX_ROWS:
        raise DataError(
            f"{path}: field '{field}': {rows.dtype} {list(rows.shape)}, expected floats [rows, {len(header)}]"
        )
    values = np.full((len(rows), COUNT), np.nan, dtype=np.float32)
    for column, (name, factor) in columns.items():
        values[:, NAMES.index(name)] = rows[:, header.index(column)].astype(np.float32) * np.float32(factor)
    return values


def _file_columns(values: FloatArray, columns: dict[str, tuple[str, float]]) -> FloatArray:
    made = [values[:, NAMES.index(name)] / np.float32(factor) for name, factor in columns.values()]
    return np.stack(made, axis=1).astype(np.float32)
