"""traffic-speed over a CSV of speeds: one line for each step that has an unbroken window before it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from roadloop_agent.drive.handlers.speed import forecast, speed_line
from roadloop_agent.drive.pipeline import Model
from roadloop_agent.drive.sources.speeds import SpeedsCsv
from roadloop_agent.infer import InferOptions, Lines
from roadloop_models.errors import DataError


def open_lines(model: Model, path: Path, options: InferOptions) -> Lines:
    """Raises DataError where the file is no CSV of speeds."""
    if path.suffix.lower() != ".csv":
        raise DataError(f"{path}: {model.bundle.manifest.task} takes a CSV of speeds under a header of sensor ids")
    source = SpeedsCsv(path)

    def lines() -> Iterator[dict[str, Any]]:
        for row, item in enumerate(source):
            if item.data.window is not None:
                yield speed_line(row + 1, forecast(model, model.run(model.preprocess(item.data.window))))

    return Lines(lines(), sum(item.data.window is not None for item in source))
