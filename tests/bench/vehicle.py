"""Figures of the vehicle: what the agent costs over the bare runtime, in time, memory, bytes and readiness."""

from collections.abc import Iterator
from pathlib import Path

from tests.bench import interference, latency, memory, resume, shadow, signals, spool, video, wire
from tests.bench.figures import Result

_PARTS = (latency, video, interference, shadow, memory, signals, spool, resume, wire)


def figures(data: Path | None) -> Iterator[Result]:
    """All of them, part by part, each as soon as it is known."""
    for part in _PARTS:
        yield from part.figures(data)
