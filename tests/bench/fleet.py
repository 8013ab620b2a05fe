"""Figures of the fleet service: what it costs to decide for many vehicles."""

from collections.abc import Iterable
from pathlib import Path

from tests.bench import plan
from tests.bench.figures import Result


def figures(_data: Path | None) -> Iterable[Result]:
    """All of them."""
    yield from plan.figures()
