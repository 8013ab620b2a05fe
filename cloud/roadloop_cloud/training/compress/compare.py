"""What each variant of one or more bundles costs and achieves, on the vehicle's own runners. No torch here."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roadloop_models.bundle import Bundle, Variant
from roadloop_models.bundle.golden import golden_inputs
from roadloop_models.bundle.manifest import TensorSpec
from roadloop_models.runners import FloatArray, Runner, open_runner
from roadloop_models.tasks import Progress, get_task, no_progress

_WARM_UP, _ROUNDS = 20, 400
REFERENCE_KEY = "onnx-fp32"


@dataclass(frozen=True)
class VariantReport:
    """One variant of one bundle."""

    version: str
    key: str
    size_bytes: int
    parameters: int | None
    """What the bundle's network learned; None where it carries no training weights."""
    latency_us: float
    """Median of one inference, one thread, batch 1, (de)quantization included; variants of a comparison take turns."""
    metrics: dict[str, float]
    """Of the task's published protocol on the test rows."""
    differs: float | None
    """From the bundle's own fp32 file; classifiers: share of test rows with another class; else root mean square of
    the difference over that of the answers. None where the bundle has no fp32 file."""
    differs_from_first: float | None
    """The same from the fp32 file of the first bundle of the comparison."""


class Recorder:
    """A runner that keeps its first output of every call."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.answers: list[FloatArray] = []

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Those of the runner."""
        return self._runner.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Those of the runner."""
        return self._runner.outputs

    @property
    def providers(self) -> tuple[str, ...]:
        """Those of the runner."""
        return self._runner.providers

    def run(self, inputs: tuple[FloatArray, ...]) -> tuple[FloatArray, ...]:
        """Those of the runner."""
        outputs = self._runner.run(inputs)
        self.answers.append(outputs[0].copy())
        return outputs

    def close(self) -> None:
        """Release the runner."""
        self._runner.close()


def compare(bundles: Sequence[Bundle], data_dir: Path, progress: Progress = no_progress) -> list[VariantReport]:
    """Report every variant of bundles of one task.

    Raises DataError for the data, BundleError for a bundle, RuntimeMissingError for a runtime.
    """
    pairs = [(bundle, variant) for bundle in bundles for variant in bundle.manifest.variants]
    latency_us = _latencies_us(pairs)
    metrics: list[dict[str, float]] = []
    answers: list[list[FloatArray]] = []
    for number, (bundle, variant) in enumerate(pairs):
        progress(number, len(pairs))
        recorder = Recorder(open_runner(bundle, variant))
        found = get_task(bundle.manifest.task).evaluate(bundle, variant, recorder, data_dir)
        recorder.close()
        metrics.append(found.metrics)
        answers.append(recorder.answers)
    progress(len(pairs), len(pairs))
    own = {
        bundle.directory: found
        for (bundle, variant), found in zip(pairs, answers, strict=True)
        if variant.key == REFERENCE_KEY
    }
    first = own.get(bundles[0].directory)
    return [
        VariantReport(
            version=bundle.manifest.version,
            key=variant.key,
            size_bytes=bundle.manifest.file_entry(variant.file).size_bytes,
            parameters=learned_parameters(bundle),
            latency_us=latency_us[number],
            metrics=metrics[number],
            differs=_difference(bundle, answers[number], own.get(bundle.directory)),
            differs_from_first=_difference(bundle, answers[number], first),
        )
        for number, (bundle, variant) in enumerate(pairs)
    ]


def learned_parameters(bundle: Bundle) -> int | None:
    """Numbers that training set; the statistics of batch normalization and constants are none."""
    weights = bundle.manifest.training_weights
    if weights is None:
        return None
    with np.load(bundle.path(weights), allow_pickle=False) as arrays:
        learned = [name for name in arrays.files if "adjacency" not in name and "running_" not in name]
        return int(sum(arrays[name].size for name in learned))


def difference(found: Sequence[FloatArray], wanted: Sequence[FloatArray], classes: bool) -> float:
    """See `VariantReport.differs`. The two have an answer each for the same rows."""
    pairs = list(zip(found, wanted, strict=True))
    if classes:
        return sum(int(a.argmax() != b.argmax()) for a, b in pairs) / len(pairs)
    square = sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in pairs)
    scale = sum(float(np.square(b, dtype=np.float64).sum()) for _, b in pairs)
    return float(np.sqrt(square / scale)) if scale else float(square > 0)


def _difference(bundle: Bundle, found: list[FloatArray], wanted: list[FloatArray] | None) -> float | None:
    # A task that looks closer where the model says so asks more of one file than of another: nothing to compare.
    if wanted is None or len(found) != len(wanted):
        return None
    return difference(found, wanted, classes=bundle.manifest.labels is not None)


def _latencies_us(pairs: Sequence[tuple[Bundle, Variant]]) -> list[float]:
    runners = [open_runner(bundle, variant) for bundle, variant in pairs]
    inputs = [
        golden_inputs(bundle.manifest.golden, tuple(tensor.shape for tensor in variant.inputs))[0]
        for bundle, variant in pairs
    ]
    times: list[list[int]] = [[] for _ in pairs]
    for turn in range(_WARM_UP + _ROUNDS):
        for runner, values, into in zip(runners, inputs, times, strict=True):
            begin_ns = time.perf_counter_ns()
            runner.run(values)
            if turn >= _WARM_UP:
                into.append(time.perf_counter_ns() - begin_ns)
    for runner in runners:
        runner.close()
    return [statistics.median(taken) / 1000 for taken in times]
