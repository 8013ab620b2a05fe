"""Figures of the fleet service: what it costs to decide for many vehicles, and to serve them."""

from collections.abc import Iterable
from pathlib import Path

from tests.bench import plan, twins
from tests.bench.figures import Result


def figures(_data: Path | None) -> Iterable[Result]:
    """All of them."""
    yield from plan.figures()
    yield from twins.figures()
