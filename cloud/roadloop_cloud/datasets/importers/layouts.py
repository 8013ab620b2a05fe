"""Which layouts can be imported, and the frame around each: nothing is overwritten, nothing half appears."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from roadloop_models.errors import BadInputError, DataError
from roadloop_models.settings import nearest


@dataclass(frozen=True)
class Imported:
    """What an import wrote."""

    tasks: tuple[str, ...]
    """Which tasks the files are for."""
    rows: dict[str, int]
    """File below the data folder -> rows (images, steps, moments) in it."""
    notes: tuple[str, ...] = ()
    """What was filled in, left out, or has to be known."""


@dataclass(frozen=True)
class Request:
    """Where the data set lies and where to write; `station` for records of many detectors of which one is wanted."""

    source: Path
    target: Path
    station: str | None = None


Importer = Callable[[Request], Imported]


@dataclass(frozen=True)
class Layout:
    """One data set: what it is, and the module below this package whose `read` imports it."""

    about: str
    module: str
    options: frozenset[str] = field(default=frozenset())


LAYOUTS: dict[str, Layout] = {
    "gtsrb": Layout("GTSRB: Final_Training/Images/00000 … 00042 with their CSVs, and Final_Test", "gtsrb"),
    "metr-la": Layout("METR-LA or PEMS-BAY: metr-la.h5 (or .csv), and distances_la_2012.csv beside it", "metr_la"),
    "pems": Layout("PeMS clearinghouse: dNN_text_station_5min_*.txt(.gz)", "pems", frozenset({"station"})),
    "kitti-oxts": Layout("KITTI raw: drives with oxts/timestamps.txt and oxts/data", "kitti_oxts"),
    "comma2k19": Layout("comma2k19: segments with processed_log and global_pose", "comma2k19"),
}


def import_layout(layout: str, source: Path, target: Path, station: str | None = None) -> Imported:
    """Read the data set below `source` and write it into the data folder `target`.

    Raises BadInputError for an unknown layout, an option without meaning or a file that is there already, DataError
    naming the file that is missing or broken. Files appear in `target` when all of them are written.
    """
    if layout not in LAYOUTS:
        raise BadInputError(f"--layout: '{layout}' is unknown{nearest(layout, LAYOUTS)}")
    chosen = LAYOUTS[layout]
    if station is not None and "station" not in chosen.options:
        raise BadInputError(f"--station: means nothing to {layout}; leave it out")
    if not source.is_dir():
        raise DataError(f"{source}: is no folder; name the one that the data set was unpacked in")
    read: Importer = import_module(f"{__package__}.{chosen.module}").read
    target.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=target, prefix=".importing-"))
    try:
        imported = read(Request(source, staging, station))
        _move(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return imported


def _move(staging: Path, target: Path) -> None:
    moves = [(path, target / path.relative_to(staging)) for path in sorted(staging.rglob("*")) if path.is_file()]
    there = [str(goal) for _, goal in moves if goal.exists()]
    if there:
        raise BadInputError(f"{', '.join(there)}: there already; import into another folder, or remove it first")
    for path, goal in moves:
        goal.parent.mkdir(parents=True, exist_ok=True)
        path.rename(goal)
