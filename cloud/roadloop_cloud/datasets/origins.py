"""rows.csv of a snapshot: for each row where it comes from, what says what it shows, and which split it is in."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from roadloop_cloud.datasets.splits import SPLITS, Split
from roadloop_models.errors import DataError

FILE = "rows.csv"
_HEADER = ("key", "split", "group", "vehicle", "drive", "label", "origin", "by")


@dataclass(frozen=True)
class RowOrigin:
    """One row of a snapshot, in the order of its files: those of train and validation first, then those of test."""

    key: str
    """What the row is called in every snapshot: the SHA-256 of an image, a step, the reference of a stretch."""
    split: Split
    group: str
    """Rows of one group are in one split; folds of a cross-validation are made of whole groups too."""
    vehicle: str = ""
    """Empty where several vehicles gave it."""
    drive: str = ""
    label: str = ""
    """What is learned of it, as text; empty where the row says it itself."""
    origin: str = ""
    """Where the label comes from: labels/words.py."""
    by: str = ""


def write_origins(folder: Path, rows: Iterable[RowOrigin]) -> None:
    """Write rows.csv."""
    with (folder / FILE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_HEADER)
        writer.writerows([getattr(row, name) for name in _HEADER] for row in rows)


def read_origins(folder: Path) -> list[RowOrigin]:
    """Read rows.csv; empty where there is none. Raises DataError naming line and field."""
    path = folder / FILE
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != _HEADER:
            raise DataError(f"{path}: columns {reader.fieldnames}, expected {','.join(_HEADER)}")
        rows = []
        for line in reader:
            split = next((name for name in SPLITS if name == line["split"]), None)
            if split is None:
                raise DataError(f"{path}: line {reader.line_num}: field 'split' is {line['split']!r}")
            rows.append(RowOrigin(split=split, **{name: line[name] for name in _HEADER if name != "split"}))
    return rows


def validation_mask(folder: Path) -> npt.NDArray[np.bool_] | None:
    """Which of a snapshot's rows (those of test aside, in the order of its files) are for validation.

    None where the folder is no snapshot, or sets none aside: whoever trains splits it then. Raises as read_origins.
    """
    mask = np.array([row.split == "validation" for row in read_origins(folder) if row.split != "test"], dtype=bool)
    return mask if mask.any() else None
