"""One conformance suite for every runner, over the files that ship."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import numpy_helper

from roadloop_models.bundle import Bundle, Quantization, TensorSpec, Variant
from roadloop_models.bundle.golden import check_golden, golden_inputs
from roadloop_models.errors import BundleError, GoldenMismatchError, ModelInputError, RuntimeMissingError
from roadloop_models.packaged import Collection, packaged_bundles
from roadloop_models.runners import Runner, open_file, open_runner
from roadloop_models.runners.tensors import dequantize, quantize

FILES = [
    pytest.param(directory, variant.key, id=f"{task}-{variant.key}")
    for task, directory in packaged_bundles().items()
    for variant in Bundle.open(directory).manifest.variants
]
INT8_FILES = [file for file in FILES if str(file.id).endswith("int8")]


def _open(directory: Path, key: str) -> tuple[Bundle, Variant, Runner]:
    bundle = Bundle.open(directory, key)
    variant = bundle.variant_by_key(key)
    return bundle, variant, open_runner(bundle, variant)


def _inputs(bundle: Bundle, variant: Variant) -> tuple[np.ndarray[Any, np.dtype[np.float32]], ...]:
    return golden_inputs(bundle.manifest.golden, tuple(tensor.shape for tensor in variant.inputs))[0]


@pytest.mark.parametrize(("directory", "key"), FILES)
def test_it_takes_and_gives_float32_of_the_promised_shapes(directory: Path, key: str) -> None:
    bundle, variant, runner = _open(directory, key)
    assert runner.inputs == variant.inputs and runner.outputs == variant.outputs
    outputs = runner.run(_inputs(bundle, variant))
    assert [(array.shape, array.dtype) for array in outputs] == [
        (tensor.shape, np.dtype(np.float32)) for tensor in variant.outputs
    ]
    assert all(np.isfinite(array).all() for array in outputs)
    runner.close()


@pytest.mark.parametrize(("directory", "key"), FILES)
def test_equal_inputs_give_equal_outputs_that_the_next_call_leaves_alone(directory: Path, key: str) -> None:
    bundle, variant, runner = _open(directory, key)
    first_inputs = _inputs(bundle, variant)
    first = runner.run(first_inputs)
    kept = [array.copy() for array in first]
    runner.run(tuple(np.zeros_like(array) for array in first_inputs))
    for outputs in (first, runner.run(first_inputs)):
        for output, before in zip(outputs, kept, strict=True):
            np.testing.assert_array_equal(output, before)


@pytest.mark.parametrize(("directory", "key"), FILES)
def test_it_names_what_it_really_runs_on(directory: Path, key: str) -> None:
    _, variant, runner = _open(directory, key)
    if variant.runtime == "onnx":
        assert runner.providers == ("CPUExecutionProvider",)
    else:
        assert runner.providers[-1] == "builtin"


@pytest.mark.parametrize(("directory", "key"), FILES)
def test_a_wrong_input_is_refused_by_tensor_name(directory: Path, key: str) -> None:
    bundle, variant, runner = _open(directory, key)
    inputs = _inputs(bundle, variant)
    name = variant.inputs[0].name
    with pytest.raises(ModelInputError, match=name):
        runner.run((inputs[0][..., :-1], *inputs[1:]))
    with pytest.raises(ModelInputError, match="float64"):
        runner.run((inputs[0].astype(np.float64), *inputs[1:]))
    with pytest.raises(ModelInputError, match="input arrays"):
        runner.run(())


@pytest.mark.parametrize(("directory", "key"), FILES)
def test_it_reproduces_its_golden_vectors(directory: Path, key: str) -> None:
    bundle, variant, runner = _open(directory, key)
    report = check_golden(bundle, variant, runner)
    assert report.vectors == bundle.manifest.golden.count
    assert report.worst_ratio <= 1.0


@pytest.mark.parametrize(("directory", "key"), FILES)
def test_tensors_other_than_the_manifests_are_refused(directory: Path, key: str) -> None:
    bundle = Bundle.open(directory, key)
    variant = bundle.variant_by_key(key)
    path = bundle.path(variant.file)
    first = variant.inputs[0]
    for wrong in (
        msgspec.structs.replace(first, name="another"),
        msgspec.structs.replace(first, shape=(*first.shape[:-1], first.shape[-1] + 1)),
    ):
        with pytest.raises(BundleError, match="the manifest says"):
            open_file(path, msgspec.structs.replace(variant, inputs=(wrong, *variant.inputs[1:])))


@pytest.mark.parametrize(("directory", "key"), INT8_FILES)
def test_a_damaged_model_file_is_refused_by_name(directory: Path, key: str, tmp_path: Path) -> None:
    bundle = Bundle.open(directory, key)
    variant = bundle.variant_by_key(key)
    broken = tmp_path / variant.file
    broken.write_bytes(bundle.path(variant.file).read_bytes()[:500])
    with pytest.raises(BundleError, match=variant.file):
        open_file(broken, variant)


def test_another_quantization_than_the_files_is_refused() -> None:
    bundle = Bundle.open(packaged_bundles()["traffic-sign"], "tflite-int8")
    variant = bundle.variant_by_key("tflite-int8")
    found = variant.outputs[0].quantization
    assert found is not None
    for wrong in (Quantization(found.scale * 1.01, found.zero_point), Quantization(found.scale, found.zero_point + 1)):
        outputs = (msgspec.structs.replace(variant.outputs[0], quantization=wrong),)
        with pytest.raises(BundleError, match="zero point"):
            open_file(bundle.path(variant.file), msgspec.structs.replace(variant, outputs=outputs))


@pytest.mark.parametrize(("runtime", "module"), [("onnx", "onnxruntime"), ("tflite", "ai_edge_litert.interpreter")])
def test_a_runtime_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, runtime: str, module: str) -> None:
    bundle = Bundle.open(packaged_bundles()["traffic-sign"])
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", None)
    with pytest.raises(RuntimeMissingError, match=rf"install roadloop\[agent,{runtime}\]"):
        open_runner(bundle, bundle.variant(runtime))


def test_a_runtime_that_imports_but_cannot_be_constructed_is_missing_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interpreter:
        """tflite-runtime 2.14 beside numpy 2."""

        def __init__(self, **options: object) -> None:
            raise SystemError("_ARRAY_API not found")

    older = ModuleType("tflite_runtime.interpreter")
    older.Interpreter = Interpreter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime", ModuleType("tflite_runtime"))
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", older)
    bundle = Bundle.open(packaged_bundles()["traffic-sign"])
    with pytest.raises(RuntimeMissingError, match="numpy below 2"):
        open_runner(bundle, bundle.variant("tflite"))


def test_an_onnx_variant_of_integers_is_refused() -> None:
    bundle = Bundle.open(packaged_bundles()["traffic-sign"])
    variant = bundle.variant("onnx", "int8")
    spec = TensorSpec("image", variant.inputs[0].shape, "int8", Quantization(0.1, 0))
    with pytest.raises(BundleError):
        open_file(bundle.path(variant.file), msgspec.structs.replace(variant, inputs=(spec,)))


@given(
    arrays(np.float32, st.integers(1, 50), elements=st.floats(-5, 5, width=32)),
    st.floats(0.01, 0.5, allow_nan=False),
    st.integers(-128, 127),
)
def test_quantizing_is_off_by_half_a_step_and_saturates(
    values: np.ndarray[Any, np.dtype[np.float32]], scale: float, zero_point: int
) -> None:
    quantization = Quantization(scale, zero_point)
    stored = quantize(values, quantization, "int8")
    assert stored.dtype == np.int8
    low, high = ((limit - zero_point) * scale for limit in (-128, 127))
    expected = np.clip(values, low, high)
    assert np.abs(dequantize(stored, quantization) - expected).max() <= scale * 0.5 + 1e-4


@pytest.mark.parametrize("collection", ["factory", "starter"])
def test_onnx_weights_cannot_saturate_on_a_processor_without_vnni(collection: Collection) -> None:
    for directory in packaged_bundles(collection).values():
        bundle = Bundle.open(directory)
        path = bundle.path(bundle.variant("onnx", "int8").file)
        constants = [numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer]
        weights = [array for array in constants if array.dtype == np.int8 and array.size > 1000]
        assert weights
        # Two products with activations of up to 255 are added in 16 bits there.
        assert all(2 * 255 * np.abs(array.astype(np.int32)).max() <= np.iinfo(np.int16).max for array in weights)


def _largest_weights(path: Path, variant: Variant) -> bytes:
    """The raw bytes of the largest constant in a model file."""
    if variant.runtime == "onnx":
        constants = [numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer]
    else:
        interpreter = Interpreter(
            model_path=str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        )
        interpreter.allocate_tensors()
        # Only weights are quantized by channel; what other tensors hold before the first run is left-over memory.
        constants = [
            interpreter.get_tensor(detail["index"])
            for detail in interpreter.get_tensor_details()
            if detail["dtype"] is np.int8 and len(detail["quantization_parameters"]["scales"]) > 1
        ]
    return bytes(max(constants, key=lambda array: int(array.nbytes)).tobytes())


@pytest.mark.parametrize(("directory", "key"), FILES)
def test_tampered_weights_fail_the_golden_check_even_without_a_hash(directory: Path, key: str, tmp_path: Path) -> None:
    bundle = Bundle.open(directory, key)
    variant = bundle.variant_by_key(key)
    content = bytearray(bundle.path(variant.file).read_bytes())
    weights = _largest_weights(bundle.path(variant.file), variant)
    start = content.find(weights)
    assert start > 0
    # The top byte of each float, and in one-byte integers every fourth weight, get another sign.
    for index in range(start + 3, start + len(weights), 4):
        content[index] ^= 0x80
    tampered = tmp_path / variant.file
    tampered.write_bytes(bytes(content))
    with pytest.raises(GoldenMismatchError, match=key):
        check_golden(bundle, variant, open_file(tampered, variant))
