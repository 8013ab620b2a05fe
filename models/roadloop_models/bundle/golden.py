"""Golden vectors: a model proves on the machine it shall run on that it computes what it computed when it was built.

Inputs are made from a seed, never taken from a data set. They come from the raw 64-bit stream of PCG64, which numpy
keeps stable between releases (its distributions it does not: NEP 19).
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from roadloop_models.bundle.bundle import Bundle
from roadloop_models.bundle.manifest import GoldenSpec, Variant
from roadloop_models.errors import BundleError, GoldenMismatchError
from roadloop_models.runners import Runner

FloatArray = npt.NDArray[np.float32]
MAX_GOLDEN_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class GoldenReport:
    """The outcome of one self-test: how many vectors ran and the largest deviation, in units of the tolerance."""

    vectors: int
    worst_ratio: float


def golden_inputs(spec: GoldenSpec, shapes: tuple[tuple[int, ...], ...]) -> list[tuple[FloatArray, ...]]:
    """`spec.count` sets of float32 inputs, one array per shape, uniform in [low, high) of that input."""
    stream = np.random.PCG64(spec.seed)
    vectors = []
    for _ in range(spec.count):
        arrays = []
        for shape, low, high in zip(shapes, spec.low, spec.high, strict=True):
            raw = np.asarray(stream.random_raw(int(np.prod(shape))), dtype=np.uint64)
            unit = (raw >> np.uint64(11)).astype(np.float64) / float(1 << 53)
            arrays.append((low + unit * (high - low)).astype(np.float32).reshape(shape))
        vectors.append(tuple(arrays))
    return vectors


def golden_outputs(spec: GoldenSpec, variant: Variant, runner: Runner) -> dict[str, FloatArray]:
    """What `runner` answers to the golden inputs: `{variant key}/{output name}` -> float32 [count, *shape]."""
    shapes = tuple(tensor.shape for tensor in variant.inputs)
    results = [runner.run(inputs) for inputs in golden_inputs(spec, shapes)]
    return {
        f"{variant.key}/{tensor.name}": np.stack([result[index] for result in results])
        for index, tensor in enumerate(variant.outputs)
    }


def encode_golden(outputs: dict[str, FloatArray]) -> bytes:
    """The golden file's bytes (npz, no pickles); equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **{key: outputs[key] for key in sorted(outputs)})
    return buffer.getvalue()


def check_golden(bundle: Bundle, variant: Variant, runner: Runner) -> GoldenReport:
    """Run the golden inputs and compare with the outputs that the bundle carries.

    Values may differ by `variant.golden_tolerance`. Where the bundle has labels its first output is of classes, and
    the winning class must be the same too, unless the golden output itself is a near-tie (its two best are closer
    than twice the tolerance).
    Raises GoldenMismatchError with the vector, the output and the difference.
    """
    expected = _load(bundle.path(bundle.manifest.golden.file))
    actual = golden_outputs(bundle.manifest.golden, variant, runner)
    classes = None if bundle.manifest.labels is None else f"{variant.key}/{variant.outputs[0].name}"
    tolerance = variant.golden_tolerance
    worst = 0.0
    for key, values in actual.items():
        if key not in expected or expected[key].shape != values.shape:
            raise BundleError(f"{bundle.directory}: golden file has no outputs '{key}' of shape {values.shape}")
        difference = np.abs(values.astype(np.float64) - expected[key]).reshape(len(values), -1).max(axis=1)
        index = int(np.argmax(np.where(np.isfinite(difference), difference, np.inf)))
        if not difference[index] <= tolerance:
            raise GoldenMismatchError(
                f"{bundle.manifest.task} {bundle.manifest.version} {variant.key}: golden vector {index}, '{key}' "
                f"is off by {difference[index]:.4g}, allowed {tolerance:.4g}"
            )
        if key == classes:
            _check_classes(key, expected[key], values, tolerance)
        worst = max(worst, float(difference[index]))
    return GoldenReport(bundle.manifest.golden.count, worst / tolerance if tolerance else 0.0)


def _check_classes(key: str, expected: FloatArray, actual: FloatArray, tolerance: float) -> None:
    for index, (want, got) in enumerate(zip(expected, actual, strict=True)):
        second, best = np.sort(want.ravel())[-2:]
        if best - second > 2 * tolerance and int(np.argmax(want)) != int(np.argmax(got)):
            raise GoldenMismatchError(
                f"golden vector {index}, '{key}': class {np.argmax(got)}, expected {np.argmax(want)}"
            )


def _load(path: Path) -> dict[str, FloatArray]:
    if path.stat().st_size > MAX_GOLDEN_BYTES:
        raise BundleError(f"{path}: larger than {MAX_GOLDEN_BYTES} bytes")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, KeyError) as error:
        raise BundleError(f"{path}: not a golden file: {error}") from error
