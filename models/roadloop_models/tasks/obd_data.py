"""OBD drives: the records kit_obd (drives.npz) and car_obd (logs.npz), split by drive, and drives written like them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from roadloop_models.drive_state.signals import COUNT, SIGNALS
from roadloop_models.errors import DataError
from roadloop_models.recordings import Recording, read_layout
from roadloop_models.recordings.layouts import CAR_OBD, KIT_OBD
from roadloop_models.signals import VSS, conversion
from roadloop_models.tasks.base import Part

FloatArray = npt.NDArray[np.float32]
Record = Literal["kit", "car"]

FILES: dict[Record, Path] = {"kit": Path("kit_obd") / "drives.npz", "car": Path("car_obd") / "logs.npz"}
TEST_SHARES: dict[Record, float] = {"kit": 14 / 63, "car": 0.25}
"""kit: the later drives, by date. car: the later logs of each driving mode, by number."""
STARTER_SHARE = 0.25

_LAYOUTS = {"kit": KIT_OBD, "car": CAR_OBD}
_STATES = {"Frei": 0, "Normal": 1, "Stau": 2}
UNKNOWN_STATE = -1
_KNOWN_FAULT = "Messfehler"
"""In the name of a drive whose record says that a measurement failed: it is no example of sound signals."""


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
        """Whether its record says nothing of a measurement that failed."""
        return _KNOWN_FAULT not in self.name


def read_drives(data_dir: Path, record: Record) -> list[ObdDrive]:
    """All drives of one record: kit by date, car by mode and number. Raises DataError naming file and field."""
    path = data_dir / FILES[record]
    drives = [ObdDrive(found.name, record, signal_rows(found)) for found in read_layout(path)]
    if not drives:
        raise DataError(f"{path}: has no drives")
    return drives if record == "kit" else sorted(drives, key=lambda drive: _mode(drive.name))


def signal_rows(recording: Recording) -> FloatArray:
    """The signals that drive-state reads of a recording: float32 [rows, signals], NaN where unknown."""
    values = np.full((len(recording.t_s), COUNT), np.nan, dtype=np.float32)
    for index, signal in enumerate(SIGNALS):
        if signal.path in recording.values:
            spec, column = VSS[signal.path], recording.values[signal.path]
            values[:, index] = np.where((column >= spec.low) & (column <= spec.high), column, np.nan)
    return values


def load_training_drives(data_dir: Path, part: Part) -> list[ObdDrive]:
    """One part of the training drives of both records. Raises DataError naming file and field.

    The starter part is the first quarter of what is not for testing.
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
        for drives in by_mode(read_drives(data_dir, record))
        for drive in drives[len(drives) - round(len(drives) * TEST_SHARES[record]) :]
    ]


def hold_out(drives: Iterable[ObdDrive], share: float) -> tuple[list[ObdDrive], list[ObdDrive]]:
    """(drives to fit, drives to validate with): the last of each record and mode, at least one of each."""
    fit: list[ObdDrive] = []
    held: list[ObdDrive] = []
    for group in by_mode(drives):
        cut = len(group) - max(round(len(group) * share), 1)
        fit += group[:cut]
        held += group[cut:]
    return fit, held


def write_drives(data_dir: Path, drives: Iterable[ObdDrive]) -> None:
    """Write drives in the layouts of the two records; signals that a layout lacks are left out."""
    drives = list(drives)
    for record, file in FILES.items():
        arrays: dict[str, npt.NDArray[np.generic]] = {
            drive.name: _file_columns(drive) for drive in drives if drive.record == record
        }
        if arrays:
            names = {"names": np.array(list(arrays))} if record == "kit" else {}
            path = data_dir / file
            path.parent.mkdir(parents=True, exist_ok=True)
            columns = {"columns": np.array(list(_LAYOUTS[record]))}
            np.savez_compressed(path, allow_pickle=False, **arrays, **names, **columns)


def _groups(data_dir: Path) -> list[tuple[list[ObdDrive], float]]:
    """The drives that are split together, with the share of them that is for testing."""
    # Either record will do: a fleet need not have both cars. With neither the error is that of the first.
    records = [record for record, file in FILES.items() if (data_dir / file).exists()] or ["kit"]
    return [(drives, TEST_SHARES[record]) for record in records for drives in by_mode(read_drives(data_dir, record))]


def by_mode(drives: Iterable[ObdDrive]) -> list[list[ObdDrive]]:
    """Drives of the same record and mode together, each in their order."""
    groups: dict[str, list[ObdDrive]] = {}
    for drive in drives:
        groups.setdefault("kit" if drive.record == "kit" else _mode(drive.name)[0], []).append(drive)
    return list(groups.values())


def _mode(name: str) -> tuple[str, int]:
    """`live12` -> ("live", 12)."""
    found = re.fullmatch(r"(\D*)(\d*)", name)
    return (name, 0) if found is None else (found[1], int(found[2] or 0))


def _file_columns(drive: ObdDrive) -> FloatArray:
    """[rows, columns] of the record's layout, in its units; NaN where drive-state does not read the signal."""
    places = {signal.path: index for index, signal in enumerate(SIGNALS)}
    made = np.full((len(drive.values), len(_LAYOUTS[drive.record])), np.nan, dtype=np.float32)
    for column, (short_path, unit) in enumerate(_LAYOUTS[drive.record].values()):
        path = f"Vehicle.{short_path}"
        if path in places:
            factor, offset = conversion(unit, VSS[path].unit)
            made[:, column] = (drive.values[:, places[path]] - offset) / factor
    return made
