"""What is learned and how well the loop learns by itself: one module a part, each with `figures(context)`.

A module of this folder that has such a function is run; there is no list to keep.
"""

from collections.abc import Collection, Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from tests.bench.figures import Result
from tests.bench.learning.context import Context


def parts() -> tuple[str, ...]:
    """The parts, in their order."""
    names = sorted(found.name for found in iter_modules(__path__))
    return tuple(name for name in names if hasattr(import_module(f"{__name__}.{name}"), "figures"))


def figures(
    data: Path | None, full: bool = False, keep: Path | None = None, only: Collection[str] = ()
) -> Iterator[Result]:
    """The figures of every part, or of those named; `full` trains what ships again, into the folder `keep` if named."""
    context = Context(data=data, full=full, keep=keep)
    for name in parts():
        if not only or name in only:
            yield from import_module(f"{__name__}.{name}").figures(context)
