"""What a data folder's owner knows of its test rows, for models to be judged on apart: weather, hardware, road.

`test_a.slices.csv` lies beside `test_a.npz` and is about its rows: a header of kinds, then one line for each row of
that file, in its order. An empty cell is `unknown`.
"""

import csv
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from roadloop_models.errors import DataError

Slices = Mapping[str, npt.NDArray[np.str_]]
"""Kind -> the label of each row."""
UNKNOWN, OTHER = "unknown", "other"
MAX_KINDS, MAX_VALUES, MAX_LABEL = 8, 100, 80
"""Columns; labels that one may have; characters of one."""
MAX_FILE_BYTES = 64 * 1024 * 1024
_KIND = re.compile(r"[a-z][a-z0-9-]{0,39}")
"""No space: the gate calls a slice `<kind> <label>`."""


def slices_file(data_file: Path) -> Path:
    """Where the slices of a file's rows are told."""
    return data_file.with_suffix(".slices.csv")


def join_slices(
    own: Slices, data_file: Path, rows: int, judged: npt.NDArray[np.int64] | slice = slice(None)
) -> dict[str, npt.NDArray[np.str_]]:
    """A task's own slices, and what is told beside `data_file`, which has so many rows.

    `judged`: which of these rows each label is about; all of them, where nothing is said. Raises DataError naming file,
    line and field.
    """
    path = slices_file(data_file)
    if not path.exists():
        return dict(own)
    told = _read(path, data_file.name, rows, own)
    return dict(own) | {kind: labels[judged] for kind, labels in told.items()}


def write_slices(data_file: Path, slices: Mapping[str, Sequence[str]]) -> None:
    """Tell the slices of a file's rows beside it. The words may be anybody's: they are made to fit first.

    What is not printable becomes `?`, what is too long is cut, and the rarest become `other` where there are too many.
    """
    columns = [_fitting(labels) for labels in slices.values()]
    with slices_file(data_file).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(slices)
        writer.writerows(zip(*columns, strict=True))


def _fitting(labels: Sequence[str]) -> list[str]:
    clean = ["".join(c if c.isprintable() else "?" for c in label)[:MAX_LABEL].strip() or UNKNOWN for label in labels]
    counts = Counter(clean)
    if len(counts) <= MAX_VALUES:
        return clean
    kept = set(sorted(counts, key=lambda label: (-counts[label], label))[: MAX_VALUES - 1])
    return [label if label in kept else OTHER for label in clean]


def _read(path: Path, of: str, rows: int, own: Collection[str]) -> dict[str, npt.NDArray[np.str_]]:
    try:
        if (size_bytes := path.stat().st_size) > MAX_FILE_BYTES:
            raise DataError(f"{path}: {size_bytes} bytes, at most {MAX_FILE_BYTES} are read")
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            kinds = _kinds(path, next(lines, []), own)
            labels = [_labels(f"{path}: line {lines.line_num}", kinds, cells) for cells in lines if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a table: {error}") from error
    if len(labels) != rows:
        raise DataError(
            f"{path}: {len(labels)} lines below the header for the {rows} rows of {of}; write one for each, in its "
            f"order, or remove the file"
        )
    columns = dict(zip(kinds, np.array(labels, dtype=np.str_).reshape(rows, len(kinds)).T, strict=True))
    for kind, column in columns.items():
        if (found := len(np.unique(column))) > MAX_VALUES:
            raise DataError(f"{path}: field '{kind}' has {found} labels, at most {MAX_VALUES}; put them into groups")
    return columns


def _kinds(path: Path, header: list[str], own: Collection[str]) -> list[str]:
    kinds = [cell.strip() for cell in header]
    where = f"{path}: line 1"
    if not any(kinds):
        raise DataError(f"{where}: the header is empty; name what each column tells, as 'weather,hardware'")
    if len(kinds) > MAX_KINDS:
        raise DataError(f"{where}: {len(kinds)} columns, at most {MAX_KINDS}; leave some out")
    for place, kind in enumerate(kinds, 1):
        if not _KIND.fullmatch(kind):
            raise DataError(
                f"{where}: column {place} is called {kind[:60]!r}; up to 40 small letters, digits and '-' are a name"
            )
        if kind in own:
            raise DataError(f"{where}: field '{kind}' is one that the task itself tells; call it something else")
        if kinds.count(kind) > 1:
            raise DataError(f"{where}: field '{kind}' is there twice; leave one out")
    return kinds


def _labels(where: str, kinds: Sequence[str], cells: Sequence[str]) -> list[str]:
    if len(cells) != len(kinds):
        raise DataError(f"{where}: {len(cells)} cells below a header of {len(kinds)}; leave a cell empty for 'unknown'")
    labels = []
    for kind, cell in zip(kinds, cells, strict=True):
        label = cell.strip()
        if len(label) > MAX_LABEL or not label.isprintable():
            raise DataError(
                f"{where}: field '{kind}' is {label[:60]!r}; up to {MAX_LABEL} printable characters are a label"
            )
        labels.append(label or UNKNOWN)
    return labels
