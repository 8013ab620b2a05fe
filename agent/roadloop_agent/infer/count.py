"""vehicle-count over a clip: one line for each crossing, in the order in which they become certain."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from roadloop_agent.drive.handlers.vehicle_count import Counting
from roadloop_agent.drive.pipeline import Model
from roadloop_agent.infer import InferOptions, Lines
from roadloop_agent.infer.images import open_images
from roadloop_agent.onboard import task_settings


def open_lines(model: Model, path: Path, options: InferOptions) -> Lines:
    """Raises DataError where the file has no images, ConfigError where a setting is out of range."""
    counting = Counting(task_settings(model.bundle.manifest.task, options.settings, "settings"))
    source = open_images(path)

    def lines() -> Iterator[dict[str, Any]]:
        for item in source:
            for crossing in counting.step(model, item.number, item.t_source_s, item.data):
                yield counting.line(crossing, model)

    return Lines(lines(), None)
