"""Where the bundles that ship with Roadloop lie: in the source tree beside this package, in a wheel inside it."""

from pathlib import Path
from typing import Literal

from roadloop_models.bundle.manifest import MANIFEST_NAME
from roadloop_models.errors import NotFoundError

Collection = Literal["factory", "starter", "student", "pruned", "speeds-alone"]
"""`factory`: what a new vehicle starts with. `starter`: trained on less, for the demo to improve upon. `student` and
`pruned`: what compression made of the factory's, for slower processors. `speeds-alone`: road speeds without the time of
day, to compare with published models that have speeds alone."""


def packaged_bundles(collection: Collection = "factory") -> dict[str, Path]:
    """Task -> bundle directory. Raises NotFoundError where this installation carries none."""
    package = Path(__file__).parent
    for factory in (package / "factory", package.parent / "factory"):
        folder = factory if collection == "factory" else factory / collection
        found = {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{MANIFEST_NAME}"))}
        if found:
            return found
    raise NotFoundError(f"{package}: no {collection} bundles are installed with it; install Roadloop from its wheel")
