"""A recording as a CSV of our own: `t_s`, then one column per VSS path in the catalogue's unit; empty where unknown."""

import math
from pathlib import Path

import numpy as np

from roadloop_models.recordings.columns import read_csv_columns
from roadloop_models.recordings.recording import Recording
from roadloop_models.signals import VSS

TIME_COLUMN = "t_s"


def is_signal_table(header: tuple[str, ...]) -> bool:
    """Whether a CSV of that header is one."""
    return len(header) > 1 and header[0] == TIME_COLUMN and set(header[1:]) <= set(VSS)


def read_signals(path: Path) -> Recording:
    """Raises DataError naming the file, and the line that is broken."""
    table = read_csv_columns(path)
    return Recording(path.stem, table.pop(TIME_COLUMN), table)


def write_signals(path: Path, recording: Recording) -> None:
    """Write what `read_signals` reads; 12 digits keep a position to a millimetre."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = np.stack([recording.t_s, *recording.values.values()], axis=1)
    with path.open("w", encoding="utf-8") as file:
        file.write(",".join((TIME_COLUMN, *recording.values)) + "\n")
        for row in columns.tolist():
            file.write(",".join("" if math.isnan(value) else f"{value:.12g}" for value in row) + "\n")
