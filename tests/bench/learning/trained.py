"""What `--full` trains: once, where somebody keeps it."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from roadloop_cloud.training.record import code_sha256
from roadloop_models.bundle import Bundle
from roadloop_models.errors import BundleError
from tests.bench.learning.context import Context

THREADS = min(2, os.cpu_count() or 1)
"""A batch of small images has no work for more."""


@contextmanager
def training_folder(context: Context) -> Iterator[Path]:
    """Where bundles go that are trained: a folder that stays, or one that is gone afterwards."""
    if context.keep is not None:
        context.keep.mkdir(parents=True, exist_ok=True)
        yield context.keep
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def once(target: Path, make: Callable[[Path], object]) -> Bundle:
    """The bundle `target`, made where it is not there. Raises BundleError where other code than this has trained it."""
    if not target.exists():
        make(target)
    bundle = Bundle.open(target)
    record = bundle.manifest.lineage.training
    if record is None or record.code_sha256 != code_sha256():
        raise BundleError(f"{target}: other code than this has trained it; keep new ones in another folder")
    return bundle
