"""TFLite files behind the Runner Protocol: ai-edge-litert, or tflite-runtime (its older name) where only that is."""

from typing import Any

import numpy as np

from roadloop_models.bundle.manifest import TensorSpec, Variant
from roadloop_models.errors import BundleError, RuntimeMissingError
from roadloop_models.runners import FloatArray, ModelFile
from roadloop_models.runners.tensors import InputCheck, to_real, to_stored

_SCALE_TOLERANCE = 1e-6


class TfliteRunner:
    """One TFLite file in one interpreter."""

    def __init__(self, file: ModelFile, variant: Variant, threads: int = 1) -> None:
        """Load the file.

        Raises RuntimeMissingError where no TFLite runtime is installed or it cannot be constructed, BundleError where
        the file is no model or has other tensors than the manifest says.
        """
        self._interpreter: Any = _open_interpreter(file, threads)
        self._variant = variant
        self._check = InputCheck(variant.inputs)
        inputs = _indices(file, "input", variant.inputs, self._interpreter.get_input_details())
        outputs = _indices(file, "output", variant.outputs, self._interpreter.get_output_details())
        self._inputs = list(zip(inputs, variant.inputs, strict=True))
        self._outputs = list(zip(outputs, variant.outputs, strict=True))

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` takes, in order; float32 whatever the file stores."""
        return self._variant.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` returns, in order; float32 whatever the file stores."""
        return self._variant.outputs

    @property
    def providers(self) -> tuple[str, ...]:
        """`delegate` where the interpreter handed nodes to one (XNNPACK, on its own), then the built-in kernels."""
        details: list[dict[str, Any]] = getattr(self._interpreter, "_get_ops_details", list)()
        delegated = any(operator["op_name"] == "DELEGATE" for operator in details)
        return ("delegate", "builtin") if delegated else ("builtin",)

    def run(self, inputs: tuple[FloatArray, ...]) -> tuple[FloatArray, ...]:
        """One inference. Raises ModelInputError where a shape or dtype does not fit."""
        self._check(inputs)
        interpreter = self._interpreter
        for (index, spec), values in zip(self._inputs, inputs, strict=True):
            interpreter.set_tensor(index, to_stored(values, spec))
        interpreter.invoke()
        return tuple(to_real(interpreter.get_tensor(index), spec) for index, spec in self._outputs)

    def close(self) -> None:
        """Release the interpreter."""
        self._interpreter = None


def _import_interpreter() -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter
    except (ImportError, OSError) as error:
        litert_error = error
    try:
        from tflite_runtime.interpreter import Interpreter as OlderInterpreter

        return OlderInterpreter
    except (ImportError, OSError) as error:
        raise RuntimeMissingError(
            f"no TFLite runtime can be imported (ai_edge_litert: {litert_error}; tflite_runtime: {error}); install "
            "roadloop[agent,tflite], or run the onnx variant"
        ) from error


def _open_interpreter(file: ModelFile, threads: int) -> Any:
    interpreter_class = _import_interpreter()
    try:
        interpreter = interpreter_class(model_content=file.content, num_threads=threads)
    except ValueError as error:
        raise BundleError(f"{file.name}: TFLite does not load it: {error}") from error
    except (ImportError, SystemError, AttributeError, TypeError) as error:
        # tflite-runtime is built against numpy 1: beside numpy 2 it imports and only fails here.
        raise RuntimeMissingError(
            f"the TFLite runtime {interpreter_class.__module__} is installed but cannot be constructed ({error}); "
            "install roadloop[agent,tflite], or numpy below 2 beside tflite-runtime"
        ) from error
    try:
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise BundleError(f"{file.name}: TFLite cannot prepare it: {error}") from error
    return interpreter


def _indices(file: ModelFile, side: str, specs: tuple[TensorSpec, ...], details: list[dict[str, Any]]) -> list[int]:
    by_name = {detail["name"]: detail for detail in details}
    if set(by_name) != {spec.name for spec in specs}:
        raise BundleError(
            f"{file.name}: {side}s are {sorted(by_name)}, the manifest says {[spec.name for spec in specs]}"
        )
    for spec in specs:
        detail = by_name[spec.name]
        shape, dtype = tuple(int(size) for size in detail["shape"]), np.dtype(detail["dtype"]).name
        if (shape, dtype) != (spec.shape, spec.dtype):
            raise BundleError(
                f"{file.name}: {side} '{spec.name}' is {dtype} {list(shape)}, the manifest says {spec.dtype} "
                f"{list(spec.shape)}"
            )
        _compare_quantization(file, spec, detail["quantization"])
    return [int(by_name[spec.name]["index"]) for spec in specs]


def _compare_quantization(file: ModelFile, spec: TensorSpec, found: tuple[float, int]) -> None:
    scale, zero_point = float(found[0]), int(found[1])
    promised = spec.quantization
    if promised is None:
        if scale != 0.0:
            raise BundleError(f"{file.name}: tensor '{spec.name}' is quantized, the manifest says it is not")
        return
    if zero_point != promised.zero_point or abs(scale / promised.scale - 1.0) > _SCALE_TOLERANCE:
        raise BundleError(
            f"{file.name}: tensor '{spec.name}' has scale {scale:.9g} and zero point {zero_point}, the manifest says "
            f"{promised.scale:.9g} and {promised.zero_point}"
        )
