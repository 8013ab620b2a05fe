"""What is learned and how well the loop learns by itself: one module a part, each with `figures(context)`.

A module of this folder that has such a function is run; there is no list to keep.
"""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from tests.bench.figures import Result
from tests.bench.learning.context import Context


def figures(data: Path | None, full: bool = False) -> Iterator[Result]:
    """The figures of every part, by the parts' names; `full` trains what ships again."""
    context = Context(data=data, full=full)
    for found in iter_modules(__path__):
        measure = getattr(import_module(f"{__name__}.{found.name}"), "figures", None)
        if measure is not None:
            yield from measure(context)
