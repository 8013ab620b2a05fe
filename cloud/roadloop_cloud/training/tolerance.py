"""How far a model's outputs may stray on another processor: measured with the other kernels that this one can run.

The same file computed by ONNX Runtime without graph optimizations (quantized operators run one by one in floating
point) and by TFLite's built-in and reference kernels is what a processor with other kernels gives. Twice the
largest difference seen, and at least four steps of an 8-bit grid over the outputs' range (int8) or a thousandth of
that range (fp32).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from roadloop_models.bundle import GoldenSpec, Variant
from roadloop_models.bundle.golden import golden_inputs, golden_outputs
from roadloop_models.runners import FloatArray, ModelFile, Runner
from roadloop_models.runners.onnx import OnnxRunner
from roadloop_models.runners.tensors import to_real, to_stored

SAFETY = 2.0
LEAST_STEPS = 4.0
LEAST_FP32_SHARE = 1e-3

_Kernels = Callable[[tuple[FloatArray, ...]], tuple[FloatArray, ...]]


def measure_tolerance(
    spec: GoldenSpec, variant: Variant, runner: Runner, path: Path
) -> tuple[float, dict[str, FloatArray]]:
    """(tolerance in real units, golden outputs of `runner`) of one variant, whose file is `path`."""
    outputs = golden_outputs(spec, variant, runner)
    vectors = golden_inputs(spec, tuple(tensor.shape for tensor in variant.inputs))
    worst = 0.0
    for kernels in _onnx_kernels(path, variant) if variant.runtime == "onnx" else _tflite_kernels(path, variant):
        for index, inputs in enumerate(vectors):
            for tensor, values in zip(variant.outputs, kernels(inputs), strict=True):
                worst = max(worst, float(np.abs(values - outputs[f"{variant.key}/{tensor.name}"][index]).max()))
    span = max(float(np.ptp(values)) for values in outputs.values())
    least = LEAST_STEPS * span / 255.0 if variant.precision == "int8" else LEAST_FP32_SHARE * span
    return float(f"{max(SAFETY * worst, least):.3g}"), outputs


def _onnx_kernels(path: Path, variant: Variant) -> Iterator[_Kernels]:
    yield OnnxRunner(ModelFile.read(path), variant, optimized=False).run


def _tflite_kernels(path: Path, variant: Variant) -> Iterator[_Kernels]:
    for resolver in (OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES, OpResolverType.BUILTIN_REF):
        interpreter = Interpreter(model_path=str(path), num_threads=1, experimental_op_resolver_type=resolver)
        interpreter.allocate_tensors()
        yield _Tflite(interpreter, variant)


class _Tflite:
    def __init__(self, interpreter: Any, variant: Variant) -> None:
        self._interpreter, self._variant = interpreter, variant
        self._inputs = {detail["name"]: detail["index"] for detail in interpreter.get_input_details()}
        self._outputs = {detail["name"]: detail["index"] for detail in interpreter.get_output_details()}

    def __call__(self, inputs: tuple[FloatArray, ...]) -> tuple[FloatArray, ...]:
        for spec, values in zip(self._variant.inputs, inputs, strict=True):
            self._interpreter.set_tensor(self._inputs[spec.name], to_stored(values, spec))
        self._interpreter.invoke()
        return tuple(
            to_real(self._interpreter.get_tensor(self._outputs[spec.name]), spec) for spec in self._variant.outputs
        )
