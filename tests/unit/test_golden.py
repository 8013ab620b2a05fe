"""Golden vectors: other kernels pass, other weights do not, near-ties do not count."""

import msgspec
import numpy as np
import pytest

from roadloop_models.bundle import Bundle, GoldenSpec, TensorSpec, Variant
from roadloop_models.bundle.golden import check_golden, encode_golden, golden_inputs
from roadloop_models.errors import GoldenMismatchError
from roadloop_models.packaged import packaged_bundles
from roadloop_models.runners import FloatArray, Runner, open_runner


class ShiftedRunner:
    """Another processor's kernels: the same model, each output off by up to `shift` (alternating in sign)."""

    def __init__(self, runner: Runner, shift: float) -> None:
        self._runner, self._shift = runner, shift

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._runner.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._runner.outputs

    @property
    def providers(self) -> tuple[str, ...]:
        return ("shifted",)

    def run(self, inputs: tuple[FloatArray, ...]) -> tuple[FloatArray, ...]:
        outputs = self._runner.run(inputs)
        return tuple((array + self._shift * _signs(array.shape)).astype(np.float32) for array in outputs)

    def close(self) -> None:
        self._runner.close()


def _signs(shape: tuple[int, ...]) -> FloatArray:
    return np.where(np.arange(int(np.prod(shape))) % 2, 1.0, -1.0).astype(np.float32).reshape(shape)


CASES = [
    pytest.param(task, variant.key, id=f"{task}-{variant.key}")
    for task, directory in packaged_bundles().items()
    for variant in Bundle.open(directory).manifest.variants
]


def _bundle(task: str, key: str) -> tuple[Bundle, Variant]:
    bundle = Bundle.open(packaged_bundles()[task])
    return bundle, bundle.variant_by_key(key)


@pytest.mark.parametrize(("task", "key"), CASES)
@pytest.mark.parametrize(("share", "passes"), [(0.9, True), (1.5, False)])
def test_the_tolerance_is_the_border(task: str, key: str, share: float, passes: bool) -> None:
    bundle, variant = _bundle(task, key)
    runner = ShiftedRunner(open_runner(bundle, variant), share * variant.golden_tolerance)
    if passes:
        assert check_golden(bundle, variant, runner).worst_ratio == pytest.approx(share, abs=0.05)
    else:
        with pytest.raises(GoldenMismatchError, match=key):
            check_golden(bundle, variant, runner)


@pytest.mark.parametrize(("task", "key"), CASES)
def test_not_a_number_never_passes(task: str, key: str) -> None:
    bundle, variant = _bundle(task, key)
    with pytest.raises(GoldenMismatchError):
        check_golden(bundle, variant, ShiftedRunner(open_runner(bundle, variant), float("nan")))


def test_the_tolerance_is_small_beside_what_the_outputs_say() -> None:
    for task, directory in packaged_bundles().items():
        bundle = Bundle.open(directory)
        for variant in bundle.manifest.variants:
            runner = open_runner(bundle, variant)
            shapes = tuple(tensor.shape for tensor in variant.inputs)
            outputs = [runner.run(inputs)[0] for inputs in golden_inputs(bundle.manifest.golden, shapes)]
            assert variant.golden_tolerance < 0.35 * np.std(outputs), f"{task} {variant.key}"


def test_inputs_depend_on_the_seed_alone_and_keep_their_range() -> None:
    spec = GoldenSpec(seed=5, count=3, low=(-1.0, 2.0), high=(1.0, 3.0), file="golden.npz")
    first, again = (golden_inputs(spec, ((2, 3), (4,))) for _ in range(2))
    other = golden_inputs(msgspec.structs.replace(spec, seed=6), ((2, 3), (4,)))
    for (left, right), (left_again, right_again) in zip(first, again, strict=True):
        np.testing.assert_array_equal(left, left_again)
        np.testing.assert_array_equal(right, right_again)
        assert left.min() >= -1 and left.max() < 1 and right.min() >= 2 and right.max() <= 3
    assert (first[0][0] != other[0][0]).any()


def test_equal_outputs_give_equal_bytes() -> None:
    outputs = {"b": np.ones((2, 2), np.float32), "a": np.zeros(3, np.float32)}
    assert encode_golden(outputs) == encode_golden(dict(reversed(list(outputs.items()))))
