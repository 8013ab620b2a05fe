"""Figures of the delivery of releases: what it costs to ask whether there is anything new, and how it then comes."""

from pathlib import Path

from tests.bench import check, deltas, fanout, resume_links, switch
from tests.bench.figures import Result


def figures(data: Path | None) -> list[Result]:
    """All that `scripts/bench delivery` measures."""
    groups = (check, deltas, resume_links, fanout, switch)
    return [figure for group in groups for figure in group.figures(data)]
