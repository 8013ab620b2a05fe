"""drive-state over recorded OBD drives: a decision a second, from the end of each drive's first minute on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from roadloop_agent.drive.handlers.drive_state import Minute, judge, state_line
from roadloop_agent.drive.pipeline import Model
from roadloop_agent.infer import InferOptions, Lines
from roadloop_agent.onboard import task_settings
from roadloop_models.drive_state.signals import SIGNALS
from roadloop_models.drive_state.window import RATE_HZ
from roadloop_models.errors import DataError
from roadloop_models.recordings import Recording, read_layout
from roadloop_models.recordings.columns import read_csv_columns
from roadloop_models.recordings.layouts import CAR_OBD, KIT_OBD, mapped
from roadloop_models.tasks.obd_data import signal_rows

_TIMES = ("t_s", "t", "time_s")


def open_lines(model: Model, path: Path, options: InferOptions) -> Lines:
    """One line per decision, drive after drive; each drive begins with an empty window.

    Raises DataError where the file has no OBD signals or no drive of that name, ConfigError for the settings.
    """
    settings = task_settings(model.bundle.manifest.task, options.settings, "settings")
    recordings = _drives(path, options.drive)

    def lines() -> Iterator[dict[str, Any]]:
        for recording in recordings:
            minute = Minute(settings)
            rows = signal_rows(recording)
            for row, (t_s, values) in enumerate(zip(recording.t_s.tolist(), rows, strict=True)):
                window = minute.add(t_s, values)
                if window is not None:
                    line = {"t": round(t_s, 3), "drive": recording.name, "row": row}
                    yield line | state_line(judge(model, window), values, settings.odd_above)

    return Lines(lines(), None)


def _drives(path: Path, name: str | None) -> Iterator[Recording]:
    found = iter([_table(path)]) if path.suffix.lower() == ".csv" else read_layout(path)
    if name is None:
        return found
    seen = []
    for recording in found:
        if recording.name == name:
            return iter([recording])
        seen.append(recording.name)
    raise DataError(f"{path}: has no drive '{name}'; it has {', '.join(seen)[:400]}")


def _table(path: Path) -> Recording:
    """A CSV: columns called by their VSS path, in the catalogue's unit, or as in kit_obd or car_obd; empty cells are
    unknown. A column of seconds (t_s, t or time_s) is the time, without one rows are half a second apart."""
    table = read_csv_columns(path)
    rows = len(next(iter(table.values())))
    values = {signal.path: table[signal.path] for signal in SIGNALS if signal.path in table}
    for layout in (KIT_OBD, CAR_OBD):
        values |= mapped(table, {column: meaning for column, meaning in layout.items() if column in table})
    if not any(signal.path in values for signal in SIGNALS):
        raise DataError(
            f"{path}: header: no OBD signal is known by one of its names; there are "
            f"{', '.join(signal.path for signal in SIGNALS)}, and the columns of kit_obd and car_obd"
        )
    time = next((table[column] for column in _TIMES if column in table), np.arange(rows) / RATE_HZ)
    if not np.isfinite(time).all():
        raise DataError(f"{path}: data row {int(np.argmin(np.isfinite(time)))}: its time is not a number")
    return Recording(path.stem, time, values)
