"""traffic-flow over a CSV of counts: one line for each step that has an unbroken window before it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from roadloop_agent.drive.handlers.flow import flow_line, forecast
from roadloop_agent.drive.pipeline import Model
from roadloop_agent.drive.sources.flow import FlowCsv
from roadloop_agent.infer import InferOptions, Lines


def open_lines(model: Model, path: Path, options: InferOptions) -> Lines:
    """Raises DataError where the file is no CSV of counts."""
    source = FlowCsv(path)

    def lines() -> Iterator[dict[str, Any]]:
        for item in source:
            step = item.data
            if step.window is not None:
                yield flow_line(step.step, step.flow_veh, forecast(model, step.window))

    return Lines(lines(), sum(item.data.window is not None for item in source))
