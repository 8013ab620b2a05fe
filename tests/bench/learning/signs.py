"""The traffic-sign model: the file that ships, and with `--full` three seeds of its recipe, trained again."""

import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from roadloop_cloud.training.compress.compare import learned_parameters
from roadloop_cloud.training.evaluate import evaluate_bundle
from roadloop_cloud.training.make import train_bundle
from roadloop_models.bundle import Bundle
from roadloop_models.packaged import packaged_bundles
from tests.bench.figures import Figure, Result, Skipped
from tests.bench.learning.context import Context
from tests.bench.learning.trained import THREADS, once, training_folder

SIGN = "traffic-sign"
INT8 = ("onnx-int8", "tflite-int8")
FP32 = "onnx-fp32"
SEEDS = (0, 1, 2)
_figure = partial(Figure, command="scripts/bench learning")


def figures(context: Context) -> Iterator[Result]:
    """Accuracy on test_a by the published protocol, what int8 costs of it, and the size of the network."""
    shipped = Bundle.open(packaged_bundles()[SIGN])
    yield _figure("sign_parameters", learned_parameters(shipped) or 0, "parameters", bar=400_000)
    if context.data is None:
        yield Skipped("sign_accuracy", "ROADLOOP_DATA names no data")
        return
    percent = accuracies(shipped, context.data)
    for key in INT8:
        yield _figure(f"sign_accuracy_{key}", percent[key], "% of test_a", bar=99.3, direction="at least")
    yield _figure("sign_int8_drop", int8_drop(percent), "points", bar=0.1)
    if not context.full:
        yield Skipped("sign_accuracy_mean", f"trains {len(SEEDS)} seeds for an hour: --full")
        return
    with training_folder(context) as folder:
        found = [accuracies(_trained(context.data, folder, seed), context.data) for seed in SEEDS]
    for key in INT8:
        mean = statistics.mean(each[key] for each in found)
        yield _full(f"sign_accuracy_mean_{key}", mean, "% of test_a", bar=99.4, direction="at least")
        for seed, each in zip(SEEDS, found, strict=True):
            yield _full(f"sign_accuracy_seed_{seed}_{key}", each[key], "% of test_a")
    yield _full("sign_int8_drop_worst_seed", max(int8_drop(each) for each in found), "points", bar=0.1)


def accuracies(bundle: Bundle, data: Path) -> dict[str, float]:
    """Variant key -> percent of the test images."""
    return {key: 100 * found.metrics["accuracy"] for key, found in evaluate_bundle(bundle, data).items()}


def int8_drop(percent: dict[str, float]) -> float:
    """Points that the worse of the int8 files loses against the fp32 file of the same weights."""
    return max(percent[FP32] - percent[key] for key in INT8)


def _trained(data: Path, folder: Path, seed: int) -> Bundle:
    def make(target: Path) -> None:
        train_bundle(SIGN, data, target.name, target, seed=seed, with_fp32=True, threads=THREADS)

    return once(folder / f"sign-seed-{seed}", make)


_full = partial(Figure, command="scripts/bench learning --full")
