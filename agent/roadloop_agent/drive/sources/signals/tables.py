"""Recorded tables: a CSV, arrays of an npz, and files of public data sets."""

from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from pathlib import Path

import numpy as np
import numpy.typing as npt

from roadloop_agent.drive.frames import Reported
from roadloop_agent.drive.sources.signals.board import Updates
from roadloop_agent.drive.sources.signals.mapping import MappedSignal
from roadloop_models.data_files import read_arrays
from roadloop_models.errors import ConfigError, DataError, RoadloopError
from roadloop_models.recordings import Recording, read_layout
from roadloop_models.recordings.columns import read_csv_columns, read_npz_names
from roadloop_models.settings import nearest
from roadloop_models.signals import VSS

FloatArray = npt.NDArray[np.float64]
_CHUNK = 4096
"""Rows that are turned into Python numbers at a time: all of a long recording would be a lot of memory."""
TIME_UNITS_S = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


class Table:
    """Rows in time, already in the catalogue's units. A cell that is NaN says nothing: the last value grows old."""

    def __init__(self, name: str, t_s: FloatArray, columns: Mapping[tuple[int, str], FloatArray]) -> None:
        """`columns`: (place on the board, VSS path) -> float64 [rows]."""
        self.name = name
        self.paths = frozenset(path for _, path in columns)
        self.indices = tuple(index for index, _ in columns)
        self._t_s = t_s
        self._columns = list(columns.values())

    def readings(self, passed_over: Reported) -> Iterator[tuple[float, Updates]]:
        """What each row says, with its time as it stands there."""
        indices = self.indices
        for start in range(0, len(self._t_s), _CHUNK):
            part = slice(start, start + _CHUNK)
            columns = [column[part].tolist() for column in self._columns]
            for t_s, *row in zip(self._t_s[part].tolist(), *columns, strict=True):
                yield t_s, [(index, value) for index, value in zip(indices, row, strict=True) if not isnan(value)]

    def troubles(self) -> list[RoadloopError]:
        """Nothing: a table that was read is whole."""
        return []


def open_csv(
    path: Path, *, time: str, time_unit: str, delimiter: str, signals: Sequence[MappedSignal], name: str
) -> Table:
    """Raises DataError where the file is broken, ConfigError naming the nearest column to one that it lacks."""
    table = read_csv_columns(path, delimiter)
    for wanted in (time, *(signal.name for signal in signals)):
        if wanted not in table:
            raise ConfigError(f"{path}: no column '{wanted}'{nearest(wanted, table)}")
    return _table(name, table[time] * TIME_UNITS_S[time_unit], [(signal, table[signal.name]) for signal in signals])


def open_npz(path: Path, *, time: str, time_unit: str, signals: Sequence[MappedSignal], name: str) -> Table:
    """Raises as `open_csv`; `array.2` is the third column of an array, a plain name the first."""
    arrays = read_npz_names(path)
    columns = [(signal, *_array_column(path, signal.name)) for signal in signals]
    for wanted in (time, *(array for _, array, _ in columns)):
        if wanted not in arrays:
            raise ConfigError(f"{path}: no array '{wanted}'{nearest(wanted, sorted(arrays))}")
    read = read_arrays(path, dict.fromkeys((time, *(array for _, array, _ in columns)), "fiu"))
    t_s = read[time].astype(np.float64).reshape(-1) * TIME_UNITS_S[time_unit]
    found = []
    for signal, array, column in columns:
        values = read[array].astype(np.float64)
        if values.ndim not in (1, 2) or len(values) != len(t_s):
            raise DataError(f"{path}: array '{array}' is {list(values.shape)}, expected [{len(t_s)}] as '{time}'")
        values = values.reshape(len(t_s), -1)
        if column >= values.shape[1]:
            raise ConfigError(f"{path}: '{signal.name}': array '{array}' has {values.shape[1]} columns, from 0")
        found.append((signal, values[:, column]))
    return _table(name, t_s, found)


def open_layout(path: Path, drive: str | None, places: Mapping[str, int], name: str) -> Table:
    """The signals of one drive of a public data set that have a place. Raises DataError, ConfigError."""
    names = []
    for recording in read_layout(path):
        if drive in (None, recording.name):
            return recording_table(recording, places, name)
        names.append(recording.name)
    if drive is None:
        raise DataError(f"{path}: has no drive")
    raise ConfigError(f"{path}: no drive '{drive}'{nearest(drive, names)}")


def recording_table(recording: Recording, places: Mapping[str, int], name: str) -> Table:
    """The signals of a recording that have a place on the board."""
    columns = {(places[path], path): values for path, values in recording.values.items() if path in places}
    return Table(name, recording.t_s, columns)


def _array_column(path: Path, name: str) -> tuple[str, int]:
    array, dot, column = name.rpartition(".")
    if not dot:
        return name, 0
    if not column.isdecimal():
        raise ConfigError(f"{path}: '{name}': after the dot comes the number of the column, from 0")
    return array, int(column)


def _table(name: str, t_s: FloatArray, columns: Sequence[tuple[MappedSignal, FloatArray]]) -> Table:
    converted = {}
    for signal, values in columns:
        factor, offset = signal.conversion(VSS[signal.path].unit)
        converted[signal.index, signal.path] = values * factor + offset
    return Table(name, t_s, converted)
