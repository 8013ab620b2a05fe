"""Figures of the vehicle: what the agent costs over the bare runtime, in time, memory and bytes."""

from pathlib import Path

from tests.bench import latency, memory, resume, signals, video, wire
from tests.bench.figures import Result

_PARTS = (latency, memory, resume, signals, video, wire)


def figures(data: Path | None) -> list[Result]:
    """All of them, part by part."""
    return [result for part in _PARTS for result in part.figures(data)]
