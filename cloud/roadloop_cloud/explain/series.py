"""traffic-speed, traffic-flow and drive-state: which moments of which signals a forecast rests on."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from roadloop_cloud.explain.rows import Axes, Infer, Row
from roadloop_models.bundle import Bundle
from roadloop_models.drive_state.judging import speed_rows, window_ends
from roadloop_models.drive_state.signals import NAMES
from roadloop_models.drive_state.window import FEATURES, ROWS, STEP_ROWS
from roadloop_models.preprocess import FlowWindow, SpeedWindow
from roadloop_models.runners import FloatArray
from roadloop_models.tasks import flow_data, speed_data
from roadloop_models.tasks.drive_state import EVERY_ROWS
from roadloop_models.tasks.obd_data import load_test_drives

_MINUTES = tuple(f"-{5 * (speed_data.WINDOW - step)}" for step in range(speed_data.WINDOW))
_SECONDS_AHEAD_OUTPUT = 1
"""drive-state's second output: the change of speed in 10 s."""


class _Series:
    """What maps of series share: nothing lies below them."""

    def image(self, row: Row) -> None:
        """A series is no picture."""

    def value(self, outputs: tuple[FloatArray, ...], row: Row) -> float:
        """The number itself, in the network's scaled unit."""
        return float(outputs[row.output][(0, *row.place)])


class Speeds(_Series):
    """The number explained is the speed in an hour at one sensor."""

    axes = Axes(("this sensor", "all others"), _MINUTES)
    unit = "scaled speed in 60 minutes"

    def rows(self, bundle: Bundle, data_dir: Path, indices: Sequence[int], infer: Infer) -> list[Row]:
        """Windows, and of each the sensor whose loss it is."""
        data = speed_data.load_test_speeds(data_dir)
        sensors = data.speeds_mph.shape[1]
        found = []
        for index in indices:
            start, sensor = divmod(index, sensors)
            stop = start + speed_data.WINDOW
            item = SpeedWindow(data.speeds_mph[start:stop], int(data.steps[stop]))
            title = f"sensor {data.sensor_ids[sensor]}, step {item.step}"
            found.append(Row(index, title, item, 0, (sensor, speed_data.HORIZON - 1), sensor))
        return found

    def occlude(self, row: Row, infer: Infer) -> FloatArray:
        """Each step of the sensor, and of all others, is set to the window's mean of each."""
        window: SpeedWindow = row.item
        whole = self.value(infer(window), row)
        mean = window.speeds_mph.mean(axis=0)
        own = np.arange(window.speeds_mph.shape[1]) == row.focus
        changes = np.zeros((2, len(window.speeds_mph)), dtype=np.float32)
        for line, sensors in enumerate((own, ~own)):
            for step in range(len(window.speeds_mph)):
                hidden = window.speeds_mph.copy()
                hidden[step, sensors] = mean[sensors]
                changes[line, step] = whole - self.value(infer(replace(window, speeds_mph=hidden)), row)
        return changes

    def gather(self, attributions: Sequence[FloatArray], row: Row) -> FloatArray:
        """[1, steps, sensors] -> [2, steps]."""
        of_steps = attributions[0][0]
        own = of_steps[:, row.focus]
        return np.stack([own, of_steps.sum(axis=1) - own])


class Flows(_Series):
    """The number explained is the next count."""

    axes = Axes(("counts",), _MINUTES)
    unit = "scaled count of the next five minutes"

    def rows(self, bundle: Bundle, data_dir: Path, indices: Sequence[int], infer: Infer) -> list[Row]:
        """Windows of counts."""
        data = flow_data.load_test_flow(data_dir)
        found = []
        for index in indices:
            stop = index + flow_data.WINDOW
            item = FlowWindow(data.flow_veh[index:stop], int(data.steps[stop]))
            place = (0,) * (len(infer(item)[0].shape) - 1)
            found.append(Row(index, f"step {item.step}", item, 0, place))
        return found

    def occlude(self, row: Row, infer: Infer) -> FloatArray:
        """Each step is set to the window's mean."""
        window: FlowWindow = row.item
        whole = self.value(infer(window), row)
        changes = np.zeros((1, len(window.flow_veh)), dtype=np.float32)
        for step in range(len(window.flow_veh)):
            hidden = window.flow_veh.copy()
            hidden[step] = window.flow_veh.mean()
            changes[0, step] = whole - self.value(infer(replace(window, flow_veh=hidden)), row)
        return changes

    def gather(self, attributions: Sequence[FloatArray], row: Row) -> FloatArray:
        """[1, steps, ...] -> [1, steps]."""
        gathered: FloatArray = attributions[0].reshape(1, attributions[0].shape[1], -1).sum(axis=2)
        return gathered


class Obd(_Series):
    """The number explained is the change of speed in the next 10 s."""

    axes = Axes(NAMES, tuple(f"{(step + 1) * STEP_ROWS / 2 - ROWS / 2:g}" for step in range(ROWS // STEP_ROWS)))
    unit = "scaled change of speed in 10 s"

    def rows(self, bundle: Bundle, data_dir: Path, indices: Sequence[int], infer: Infer) -> list[Row]:
        """Windows of the test drives whose speeds are known, in the order of the losses."""
        drives = load_test_drives(data_dir, "kit")
        _, known = speed_rows([drive.values for drive in drives], EVERY_ROWS)
        places = [(drive, end) for drive in drives for end in window_ends(len(drive.values), EVERY_ROWS)]
        kept = [place for place, there in zip(places, known, strict=True) if there]
        found = []
        for index in indices:
            drive, end = kept[index]
            title = f"{drive.name}, {end / 2:g} s"
            found.append(Row(index, title, drive.values[end - ROWS : end], _SECONDS_AHEAD_OUTPUT, (0,)))
        return found

    def occlude(self, row: Row, infer: Infer) -> FloatArray:
        """Three seconds of one signal at a time are unknown; signals that the car does not tell change nothing."""
        values: FloatArray = row.item
        whole = self.value(infer(values), row)
        changes = np.zeros((len(NAMES), ROWS // STEP_ROWS), dtype=np.float32)
        for signal in np.flatnonzero(np.isfinite(values).any(axis=0)).tolist():
            for step in range(ROWS // STEP_ROWS):
                hidden = values.copy()
                hidden[step * STEP_ROWS : (step + 1) * STEP_ROWS, signal] = np.nan
                changes[signal, step] = whole - self.value(infer(hidden), row)
        return changes

    def gather(self, attributions: Sequence[FloatArray], row: Row) -> FloatArray:
        """[1, 20, features x signals] -> [signals, 20]."""
        steps = attributions[0][0]
        gathered: FloatArray = steps.reshape(len(steps), FEATURES, len(NAMES)).sum(axis=1).T
        return gathered
