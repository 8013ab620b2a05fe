"""METR-LA and PEMS-BAY as DCRNN publishes them: a pandas HDF5 file (or the same as CSV) and distances of sensors."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from roadloop_cloud.datasets.importers.layouts import Imported, Request
from roadloop_cloud.datasets.importers.road_speeds import steps_of, write_filled
from roadloop_models.data_files import check_readable
from roadloop_models.errors import DataError, RuntimeMissingError
from roadloop_models.preprocess import FloatArray

_NEAREST = 0.1
"""Weights below are 0, as in DCRNN's gen_adj_mx.py."""
_UNITS_NS = {"datetime64": 1, "datetime64[ns]": 1, "datetime64[us]": 10**3, "datetime64[ms]": 10**6}

_Record = tuple[tuple[str, ...], npt.NDArray[np.int64], npt.NDArray[np.float64]]


def read(request: Request) -> Imported:
    """The record, with an adjacency where there are distances."""
    source = request.source
    records = sorted(path for path in source.iterdir() if path.suffix == ".h5")
    if not records:
        records = [path for path in sorted(source.glob("*.csv")) if _is_record(path)]
    if len(records) != 1:
        raise DataError(
            f"{source}: {len(records)} records ({', '.join(path.name for path in records) or 'no .h5 file'}); "
            "name a folder with one, as metr-la.h5"
        )
    path = records[0]
    ids, times_ns, speeds_mph = _read_h5(path) if path.suffix == ".h5" else _read_csv(path)
    distances = sorted(source.rglob("distances_*.csv"))
    adjacency = _adjacency(distances[0], ids) if distances else None
    rows, notes = write_filled(request.target, steps_of(times_ns, path), speeds_mph, ids, adjacency)
    if adjacency is None:
        notes += ("no distances_*.csv: without an adjacency only a model that has one can go on learning from it",)
    return Imported(("traffic-speed",), rows, notes)


def _read_h5(path: Path) -> _Record:
    """pandas' fixed format: a group with the sensors, the times and one block of values."""
    check_readable(path)
    try:
        import h5py
    except ImportError as error:
        raise RuntimeMissingError("reading .h5 needs h5py; install roadloop[cloud]") from error
    try:
        with h5py.File(path, "r") as file:
            groups = [group for group in file.values() if "block0_values" in group and "axis1" in group]
            if len(groups) != 1:
                raise DataError(f"{path}: has {len(groups)} tables of pandas' fixed format, expected one")
            group = groups[0]
            ids, times, values = group["block0_items"], group["axis1"], group["block0_values"]
            unit = _attribute(times, "kind")
            # What pandas cannot store as numbers or text it pickles; such an array has no fixed width.
            if ids.dtype.kind not in "SUi" or values.dtype.kind != "f" or times.dtype.kind != "i":
                raise DataError(f"{path}: its arrays are {ids.dtype}, {times.dtype} and {values.dtype}, not plain ones")
            if unit not in _UNITS_NS:
                raise DataError(f"{path}: its rows are indexed by {unit or 'nothing that is known'}, expected times")
            if values.shape != (len(times), len(ids)):
                raise DataError(f"{path}: {values.shape} values of {len(times)} times and {len(ids)} sensors")
            names = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in ids[:].tolist())
            return names, times[:].astype(np.int64) * _UNITS_NS[unit], values[:].astype(np.float64)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: truncated or not HDF5: {error}") from error


def _attribute(array: Any, name: str) -> str:
    value = array.attrs.get(name, b"")
    return value.decode() if isinstance(value, bytes) else str(value)


def _is_record(path: Path) -> bool:
    return "distances" not in path.name and "locations" not in path.name


def _read_csv(path: Path) -> _Record:
    """The same as text: times in the first column, under a header of sensor ids."""
    check_readable(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file)
            ids = tuple(cell.strip() for cell in next(lines, [])[1:])
            times, rows = [], []
            for number, cells in enumerate(lines, 2):
                if len(cells) != len(ids) + 1:
                    raise DataError(f"{path}: line {number}: {len(cells)} cells below a header of {len(ids) + 1}")
                times.append(np.datetime64(cells[0].strip(), "ns"))
                rows.append([float(cell or "nan") for cell in cells[1:]])
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: not a table of speeds: {error}") from error
    if not rows or not ids:
        raise DataError(f"{path}: has no rows of speeds")
    return ids, np.array(times).astype(np.int64), np.array(rows)


def _adjacency(path: Path, ids: tuple[str, ...]) -> FloatArray:
    """exp(-(distance / deviation of all distances)^2), 0 below 0.1: DCRNN's Gaussian kernel of road distances."""
    check_readable(path)
    places = {name: place for place, name in enumerate(ids)}
    distances = np.full((len(ids), len(ids)), np.inf)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                if row["from"] in places and row["to"] in places:
                    distances[places[row["from"]], places[row["to"]]] = float(row["cost"])
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: expected columns from, to and cost: {error}") from error
    found = distances[np.isfinite(distances)]
    if not len(found) or not found.std() > 0:
        raise DataError(f"{path}: has no distances between the sensors of the record")
    weights = np.exp(-((distances / found.std()) ** 2))
    return np.where(weights < _NEAREST, 0.0, weights).astype(np.float32)
