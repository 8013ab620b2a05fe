"""Reading tables of numbers at full precision: a missing or unreadable cell is NaN, a broken file an error."""

import csv
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from roadloop_models.data_files import check_readable
from roadloop_models.errors import DataError

FloatArray = npt.NDArray[np.float64]


def read_csv_header(path: Path, delimiter: str = ",") -> tuple[str, ...]:
    """The cells of the first line. Raises DataError."""
    check_readable(path)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return tuple(cell.strip() for cell in next(csv.reader([file.readline(65_536)], delimiter=delimiter), []))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a table: {error}") from error


def read_csv_columns(path: Path, delimiter: str = ",") -> dict[str, FloatArray]:
    """Column name -> float64 [rows] of a CSV with a header; cells that are empty or no numbers are NaN.

    Raises DataError naming the file, and the line that has another number of cells than the header.
    """
    names = read_csv_header(path, delimiter)
    if len(set(names)) != len(names):
        raise DataError(f"{path}: two columns of the header have the same name")
    values = read_csv_rows(path, delimiter, skip=1)
    if values.shape[1] != len(names):
        raise DataError(f"{path}: {values.shape[1]} cells a line below a header of {len(names)}")
    return {name: values[:, column] for column, name in enumerate(names)}


def read_csv_rows(path: Path, delimiter: str = ",", skip: int = 0) -> FloatArray:
    """float64 [rows, cells] of a CSV, after `skip` lines. Raises DataError as `read_csv_columns`."""
    check_readable(path)
    rows: list[list[float]] = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for number, cells in enumerate(csv.reader(file, delimiter=delimiter), 1):
                if number <= skip or not cells:
                    continue
                if rows and len(cells) != len(rows[0]):
                    raise DataError(f"{path}: line {number}: {len(cells)} cells, {len(rows[0])} before; truncated?")
                rows.append([_number(cell) for cell in cells])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a table: {error}") from error
    if not rows:
        raise DataError(f"{path}: has no rows")
    return np.array(rows)


def read_npz_names(path: Path) -> frozenset[str]:
    """The arrays that an npz has. Raises DataError."""
    check_readable(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            if isinstance(archive, np.lib.npyio.NpzFile):
                return frozenset(archive.files)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: truncated or not an npz: {error}") from error
    raise DataError(f"{path}: is a single array, expected an npz")


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan
