"""Sizes of the bundles that ship."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from roadloop_models.bundle import Bundle
from roadloop_models.packaged import packaged_bundles
from tests.bench.figures import Figure, Result
from tests.bench.learning.context import Context

SIGN = "traffic-sign"
INT8 = ("onnx-int8", "tflite-int8")
_figure = partial(Figure, command="scripts/bench learning")


def figures(context: Context) -> Iterator[Result]:
    """Of the factory's int8 files, in bytes and in parameters."""
    bundles = {task: Bundle.open(path) for task, path in packaged_bundles().items()}
    yield from _sizes(bundles)


def _sizes(bundles: dict[str, Bundle]) -> list[Figure]:
    found = []
    for task, bundle in bundles.items():
        bar = 450.0 if task == SIGN else None
        for key in INT8:
            size_bytes = bundle.manifest.file_entry(bundle.variant_by_key(key).file).size_bytes
            found.append(_figure(f"size_{task}_{key}", size_bytes / 1000, "kB", bar=bar))
        weights = bundle.manifest.training_weights
        assert weights is not None
        with np.load(bundle.path(weights), allow_pickle=False) as arrays:
            learned = [name for name in arrays.files if "adjacency" not in name and "running_" not in name]
            count = sum(arrays[name].size for name in learned)
        found.append(_figure(f"parameters_{task}", count, "parameters", bar=400_000 if task == SIGN else None))
    return found
