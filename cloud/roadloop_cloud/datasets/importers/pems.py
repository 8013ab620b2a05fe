"""PeMS as its clearinghouse has it: a text file a day, without a header, one line per station and five minutes."""

import csv
import gzip
import io
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from roadloop_cloud.datasets.importers.layouts import Imported, Request
from roadloop_cloud.datasets.importers.road_speeds import STEP_NS, steps_of, write_filled
from roadloop_models.data_files import check_readable
from roadloop_models.errors import DataError
from roadloop_models.tasks.flow_data import FOLDER, TEST_FILE, TRAIN_FILE, FlowRows, step_of, write_flow

TEST_SHARE = 0.35
"""Of the rows of a station, the later ones: 15 of 42 days, as in the published split of one detector."""
_TIME, _STATION, _FLOW, _SPEED = 0, 1, 9, 11
_TIME_FORMAT = "%m/%d/%Y %H:%M:%S"


class _Line(NamedTuple):
    time: datetime
    station: str
    flow_veh: float
    speed_mph: float


def read(request: Request) -> Imported:
    """All stations' speeds; or the counts of `station`, of which the last 35 % are for testing."""
    files = sorted(request.source.rglob("*_text_station_5min_*.txt*"))
    if not files:
        raise DataError(f"{request.source}: has no file like d07_text_station_5min_2012_03_01.txt.gz")
    lines = [line for path in files for line in _lines(path, request.station)]
    if request.station is not None:
        return _counts(request, request.station, lines)
    return _speeds(request, lines)


def _counts(request: Request, station: str, lines: list[_Line]) -> Imported:
    flows = {step_of(line.time): line.flow_veh for line in lines if np.isfinite(line.flow_veh)}
    if not flows:
        raise DataError(f"{request.source}: has no counts of station {station}")
    steps = sorted(flows)
    rows = FlowRows(np.array(steps), np.array([flows[step] for step in steps], dtype=np.float32))
    cut = round(len(rows) * (1 - TEST_SHARE))
    parts = {TRAIN_FILE: rows.span(0, cut), TEST_FILE: rows.span(cut, len(rows))}
    for name, part in parts.items():
        write_flow(request.target / FOLDER / name, part)
    note = f"station {station}: {len(lines) - len(rows)} lines without a count of their own are left out"
    return Imported(("traffic-flow",), {f"{FOLDER}/{name}": len(part) for name, part in parts.items()}, (note,))


def _speeds(request: Request, lines: list[_Line]) -> Imported:
    stations = sorted({line.station for line in lines})
    times = sorted({line.time for line in lines})
    if not lines:
        raise DataError(f"{request.source}: its files have no lines")
    row, column = {time: index for index, time in enumerate(times)}, {name: at for at, name in enumerate(stations)}
    speeds_mph = np.full((len(times), len(stations)), np.nan)
    for line in lines:
        speeds_mph[row[line.time], column[line.station]] = line.speed_mph
    times_ns = np.array([step_of(time) for time in times]) * STEP_NS
    rows, notes = write_filled(
        request.target, steps_of(times_ns, request.source), speeds_mph, tuple(stations), adjacency=None
    )
    notes += ("no adjacency comes with PeMS: only a model that has one can go on learning from it",)
    return Imported(("traffic-speed",), rows, notes)


def _lines(path: Path, station: str | None) -> Iterator[_Line]:
    check_readable(path)
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, cells in enumerate(csv.reader(io.TextIOWrapper(file, encoding="utf-8", newline="")), 1):
                if len(cells) <= _SPEED:
                    raise DataError(f"{path}: line {number}: {len(cells)} cells, expected 12 or more; truncated?")
                if station in (None, cells[_STATION]):
                    time = datetime.strptime(cells[_TIME], _TIME_FORMAT).replace(tzinfo=UTC)
                    yield _Line(time, cells[_STATION], float(cells[_FLOW] or "nan"), float(cells[_SPEED] or "nan"))
    except (OSError, EOFError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: not a station file of PeMS: {error}") from error
