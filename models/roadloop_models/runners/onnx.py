"""ONNX Runtime behind the Runner Protocol."""

from typing import Any

import numpy as np

from roadloop_models.bundle.manifest import TensorSpec, Variant
from roadloop_models.errors import BundleError, RuntimeMissingError
from roadloop_models.runners import FloatArray, ModelFile
from roadloop_models.runners.tensors import InputCheck, to_real, to_stored

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}


class OnnxRunner:
    """One ONNX file in one session."""

    def __init__(
        self,
        file: ModelFile,
        variant: Variant,
        threads: int = 1,
        providers: tuple[str, ...] = ("CPUExecutionProvider",),
        *,
        optimized: bool = True,
    ) -> None:
        """Load the file; `threads` is for one operator, operators run one after the other.

        Not `optimized`, every operator of the file is computed as it stands there: that is for comparing kernels.

        Raises RuntimeMissingError where onnxruntime is not installed or does not load, BundleError where the file is
        no model or has other tensors than the manifest says.
        """
        self._session: Any = _open_session(file, threads, providers, optimized)
        self._variant = variant
        self._check = InputCheck(variant.inputs)
        _compare(file, "input", variant.inputs, self._session.get_inputs())
        _compare(file, "output", variant.outputs, self._session.get_outputs())
        self._input_names = [spec.name for spec in variant.inputs]
        self._output_names = [spec.name for spec in variant.outputs]
        self._float_inputs = all(spec.dtype == "float32" for spec in variant.inputs)
        self._float_outputs = all(spec.dtype == "float32" for spec in variant.outputs)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` takes, in order."""
        return self._variant.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` returns, in order."""
        return self._variant.outputs

    @property
    def providers(self) -> tuple[str, ...]:
        """The providers of this session. (The module's own list names what the wheel was built with.)"""
        return tuple(self._session.get_providers())

    def run(self, inputs: tuple[FloatArray, ...]) -> tuple[FloatArray, ...]:
        """One inference. Raises ModelInputError where a shape or dtype does not fit."""
        stored: tuple[Any, ...] = inputs if self._float_inputs else self._stored(inputs)
        try:
            outputs = self._session.run(self._output_names, dict(zip(self._input_names, stored, strict=True)))
        except Exception:
            self._check(inputs)  # ONNX Runtime checks them itself; what it says names no tensor of ours
            raise
        if self._float_outputs:
            return tuple(outputs)
        return tuple(to_real(values, spec) for values, spec in zip(outputs, self._variant.outputs, strict=True))

    def _stored(self, inputs: tuple[FloatArray, ...]) -> tuple[Any, ...]:
        self._check(inputs)
        return tuple(to_stored(values, spec) for values, spec in zip(inputs, self._variant.inputs, strict=True))

    def close(self) -> None:
        """Release the session."""
        self._session = None


def _open_session(file: ModelFile, threads: int, providers: tuple[str, ...], optimized: bool) -> Any:
    try:
        import onnxruntime
    except (ImportError, OSError) as error:
        raise RuntimeMissingError(
            f"onnxruntime cannot be imported ({error}); install roadloop[agent,onnx], or run the tflite variant"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # A spinning worker takes the core from the other process of the vehicle.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(file.content, options, providers=list(providers))
    except Exception as error:  # ONNX Runtime's own exceptions share no other base class.
        raise BundleError(f"{file.name}: ONNX Runtime does not load it: {error}") from error


def _compare(file: ModelFile, side: str, specs: tuple[TensorSpec, ...], tensors: list[Any]) -> None:
    found = {tensor.name: (tuple(tensor.shape), _DTYPES.get(tensor.type, tensor.type)) for tensor in tensors}
    promised = {spec.name: (tuple(spec.shape), str(np.dtype(spec.dtype))) for spec in specs}
    if found != promised:
        raise BundleError(f"{file.name}: {side}s are {found}, the manifest says {promised}")
