"""Figures of the bundles that ship: accuracy by the published protocols, on the quantized files, and their size."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from roadloop_models.bundle import Bundle
from roadloop_models.packaged import packaged_bundles
from roadloop_models.runners import open_runner
from roadloop_models.tasks import get_task
from tests.bench.figures import Figure, Result, Skipped
from tests.bench.learning.context import Context

SIGN, SPEED = "traffic-sign", "traffic-speed"
INT8 = ("onnx-int8", "tflite-int8")
SPEED_BARS_MPH = {"rmse_mph_15min": 5.05, "rmse_mph_30min": 5.90, "rmse_mph_45min": 6.45, "rmse_mph_60min": 6.90}
_figure = partial(Figure, command="scripts/bench learning")


def figures(context: Context) -> Iterator[Result]:
    """Sizes of the factory bundles and, where there is data, what they achieve on the published test rows."""
    bundles = {task: Bundle.open(path) for task, path in packaged_bundles().items()}
    yield from _sizes(bundles)
    if context.data is None:
        yield Skipped("accuracy of the factory bundles", "ROADLOOP_DATA names no data")
        return
    yield from _speed_errors(bundles[SPEED], context.data)


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


def _metrics(bundle: Bundle, key: str, data: Path) -> dict[str, float]:
    variant = bundle.variant_by_key(key)
    runner = open_runner(bundle, variant)
    try:
        return get_task(bundle.manifest.task).evaluate(bundle, variant, runner, data).metrics
    finally:
        runner.close()


def _speed_errors(bundle: Bundle, data: Path) -> list[Figure]:
    metrics = {key: _metrics(bundle, key, data) for key in (*INT8, "onnx-fp32")}
    found = [
        _figure(f"{name}_{key}", metrics[key][name], "mph", bar=bar)
        for key in INT8
        for name, bar in SPEED_BARS_MPH.items()
    ]
    loss = max(metrics[key][name] / metrics["onnx-fp32"][name] - 1 for key in INT8 for name in SPEED_BARS_MPH)
    return [*found, _figure("rmse_int8_loss", 100 * loss, "%", bar=0.5)]
