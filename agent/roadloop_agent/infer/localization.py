"""localization over a recorded drive: a line a step, at most ten a second; `--outage` hides the reference for a while.

`t` is seconds after the first row. `east_m` and `north_m` are relative to the first position of the reference.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from roadloop_agent.drive.frames import refuse
from roadloop_agent.drive.handlers.localization import position_line, step
from roadloop_agent.drive.pipeline import Model
from roadloop_agent.infer import InferOptions, Lines
from roadloop_models.errors import ConfigError, DataError
from roadloop_models.localization import SampleReader, Session
from roadloop_models.localization.sample import SPEED_SIGNALS, WHEEL_SIGNALS
from roadloop_models.recordings import Recording, read_layout

LEAST_STEP_S = 0.1
CAN_SUFFIXES = (".log", ".blf", ".asc")
_EPSILON_S = 1e-3


def open_lines(model: Model, path: Path, options: InferOptions) -> Lines:
    """Both ends of the outage are hidden too, so that the line at its end is still dead reckoned.

    Raises DataError where the file is of no layout that is known, has no odometer, or ends before the outage begins.
    """
    recording = _can(path, options.dbc) if options.dbc else _drive(path, options.drive)
    start_s, end_s = _hidden(path, recording, options.outage)

    def lines() -> Iterator[dict[str, Any]]:
        read, session = SampleReader(), Session()
        first_s = float(recording.t_s[0])
        told_s = -LEAST_STEP_S
        for t_s, values in recording.rows():
            sample = read(t_s, values)
            after_s = t_s - first_s
            if start_s - _EPSILON_S <= after_s <= end_s + _EPSILON_S:
                sample = dataclasses.replace(sample, reference=None)
            estimate = step(session, sample, model)
            if after_s - told_s >= LEAST_STEP_S - _EPSILON_S:
                told_s = after_s
                yield position_line(estimate, after_s)

    return Lines(lines(), None)


def _can(path: Path, dbc: tuple[Path, ...]) -> Recording:
    """A CAN log has no reference: its whole length is dead reckoned. `#` takes one bus of several."""
    from roadloop_agent.drive.sources.signals.known_dbc import can_recording
    from roadloop_agent.drive.sources.signals.survey import LogChoice

    log = LogChoice.parse(str(path))
    recording = can_recording(log.path, dbc, log.bus, refuse)
    _check_odometer(path, recording)
    return recording


def _check_odometer(path: Path, recording: Recording) -> None:
    if not any(signal in recording.values for signal in (*SPEED_SIGNALS, *WHEEL_SIGNALS)):
        raise DataError(f"{path}: has no odometer; localization needs {SPEED_SIGNALS[0]} or the wheels' speeds")


def _drive(path: Path, name: str | None) -> Recording:
    if path.suffix.lower() in CAN_SUFFIXES:
        raise ConfigError(f"{path}: a CAN log is decoded with --dbc FILE")
    known = []
    for recording in read_layout(path):
        if name in (None, recording.name):
            _check_odometer(path, recording)
            return recording
        known.append(recording.name)
    raise DataError(f"{path}: has no drive '{name}'; it has {', '.join(known)[:400]}")


def _hidden(path: Path, recording: Recording, outage: tuple[float, float] | None) -> tuple[float, float]:
    """(start, end) of the outage in seconds after the first row; without one an empty stretch."""
    if outage is None:
        return float("inf"), float("-inf")
    length_s = float(recording.t_s[-1] - recording.t_s[0])
    if outage[0] > length_s:
        raise DataError(f"{path}: --outage begins {outage[0]:g} s after the first row, the drive has {length_s:g} s")
    return outage[0], outage[0] + outage[1]
