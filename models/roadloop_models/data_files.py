"""Reading the arrays and tables of a data folder: bounded, never pickled, each failure named by file and field."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from roadloop_models.errors import DataError

MAX_DATA_FILE_BYTES = 2 * 1024**3
WAY_OUT = "--data names the folder that holds gtsrb32/ and losloop/"


def check_readable(path: Path) -> None:
    """Raise DataError where a data file is missing or larger than is ever read into memory."""
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; {WAY_OUT}") from error
    if size_bytes > MAX_DATA_FILE_BYTES:
        raise DataError(f"{path}: {size_bytes} bytes, at most {MAX_DATA_FILE_BYTES} are read")


def array_names(path: Path) -> tuple[str, ...]:
    """The fields of an npz; none where it is not one, which `read_arrays` then says. Raises DataError: missing."""
    check_readable(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return ()


def read_arrays(path: Path, dtypes: Mapping[str, str]) -> dict[str, npt.NDArray[np.generic]]:
    """The named arrays of an npz; `dtypes` maps field to numpy kinds that it may have (`"u"`, `"iu"`, ...).

    Raises DataError naming the file and the field that is missing, truncated or of another type.
    """
    check_readable(path)
    arrays = {}
    field = "(archive)"
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: is a single array, expected an npz with {', '.join(dtypes)}")
            for field in dtypes:
                if field not in archive.files:
                    raise DataError(f"{path}: has no field '{field}'; it has {', '.join(sorted(archive.files))}")
                arrays[field] = archive[field]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: field '{field}': truncated or not an npz: {error}") from error
    for field, kinds in dtypes.items():
        if arrays[field].dtype.kind not in kinds:
            raise DataError(f"{path}: field '{field}' is {arrays[field].dtype}, expected an integer array")
    return arrays


def read_table(path: Path, header: bool) -> tuple[tuple[str, ...], npt.NDArray[np.float32]]:
    """A CSV of numbers: (column names, float32 [rows, columns]); without a header the names are empty.

    Raises DataError naming the file and, where numpy knows it, the line.
    """
    check_readable(path)
    try:
        with path.open(encoding="utf-8") as file:
            names = tuple(name.strip() for name in file.readline().split(",")) if header else ()
            lines = file.readlines()
        values = np.loadtxt(lines, delimiter=",", dtype=np.float32, ndmin=2) if lines else np.empty((0, 0), np.float32)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a table of numbers: {error}") from error
    if values.size == 0:
        raise DataError(f"{path}: has no rows")
    if header and values.shape[1] != len(names):
        raise DataError(f"{path}: {values.shape[1]} columns of numbers below a header of {len(names)}")
    if not np.isfinite(values).all():
        row, column = (int(index) for index in np.argwhere(~np.isfinite(values))[0])
        raise DataError(f"{path}: data row {row}, column {column}: not a finite number")
    return names, values
