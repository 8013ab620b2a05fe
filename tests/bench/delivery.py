"""Figures of the delivery of releases: what it costs to ask whether there is anything new, and how it then comes."""

from pathlib import Path

from tests.bench import check, deltas, switch
from tests.bench.figures import Result


def figures(data: Path | None) -> list[Result]:
    """All that `scripts/bench delivery` measures."""
    return [*check.figures(data), *deltas.figures(data), *switch.figures(data)]
