"""What a third-party model file takes and gives: names, shapes, dtypes, and what it answers to made inputs."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from roadloop_models.bundle import Quantization, TensorSpec, Variant
from roadloop_models.bundle.manifest import MAX_FILE_BYTES, DType, Precision, Runtime
from roadloop_models.errors import DataError, RoadloopError
from roadloop_models.runners import FloatArray, open_file

_DTYPES: tuple[str, ...] = get_args(DType)
_ONNX_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
_INT8_OPERATORS = (b"QuantizeLinear", b"QLinearConv", b"ConvInteger", b"MatMulInteger")
"""Operators of ONNX that compute in integers; a file spells the names of its operators."""
_PIXEL_RANGES = ((0.0, 1.0), (0.0, 255.0))
PLAIN = Quantization(1.0, 0)
"""Of 8-bit tensors that say nothing of a scale: pixels as they are."""
PROBE_SEED = 20261123


@dataclass(frozen=True)
class Tensor:
    """One input or output as the file declares it; None is a dimension that the file leaves open."""

    name: str
    dims: tuple[int | None, ...]
    dtype: str
    quantization: Quantization | None = None

    def __str__(self) -> str:
        shape = ", ".join("?" if size is None else str(size) for size in self.dims)
        return f"'{self.name}' {self.dtype} [{shape}]"


@dataclass(frozen=True)
class ModelFile:
    """A file and its tensors."""

    path: Path
    runtime: Runtime
    precision: Precision
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def variant(self) -> Variant:
        """The variant that a manifest describes it as, without a golden tolerance yet.

        Raises DataError where a tensor has an open dimension or a dtype that no runner takes.
        """
        for tensor in (*self.inputs, *self.outputs):
            if tensor.dtype not in _DTYPES:
                raise DataError(
                    f"{self.path}: tensor {tensor} has a dtype that vehicles do not run ({', '.join(_DTYPES)}); "
                    "convert the file to float32 first"
                )
            if None in tensor.dims:
                raise DataError(f"{self.path}: tensor {tensor} has an open dimension; export it with fixed sizes")
        inputs, outputs = (tuple(map(_spec, side)) for side in (self.inputs, self.outputs))
        return Variant(self.runtime, self.precision, self.path.name, inputs, outputs, golden_tolerance=0.0)

    def __str__(self) -> str:
        inputs, outputs = (", ".join(map(str, side)) for side in (self.inputs, self.outputs))
        return f"takes {inputs} and gives {outputs}"


def inspect_file(path: Path, runtime: Runtime) -> ModelFile:
    """Read a file's tensors. Raises DataError where it is missing, too large or no model of that runtime."""
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    if size_bytes > MAX_FILE_BYTES:
        raise DataError(f"{path}: {size_bytes} bytes, at most {MAX_FILE_BYTES} go into a bundle")
    return _inspect_onnx(path) if runtime == "onnx" else _inspect_tflite(path)


def probe(file: ModelFile) -> list[tuple[FloatArray, ...]]:
    """The outputs for seeded noise, once as pixels from 0 to 1 and once from 0 to 255.

    Raises DataError where the file has open dimensions or cannot be run.
    """
    variant = file.variant()
    try:
        runner = open_file(file.path, variant)
        with contextlib.closing(runner):
            return [runner.run(noise) for noise in made_inputs([spec.shape for spec in variant.inputs])]
    except RoadloopError:
        raise
    except Exception as error:  # a runtime may raise anything about an operator it cannot run
        raise DataError(f"{file.path}: cannot be run: {error}") from error


def made_inputs(shapes: Sequence[tuple[int, ...]]) -> Iterator[tuple[FloatArray, ...]]:
    """Seeded noise for each range that pixels may have."""
    stream = np.random.default_rng(PROBE_SEED)
    for low, high in _PIXEL_RANGES:
        yield tuple(stream.uniform(low, high, size=shape).astype(np.float32) for shape in shapes)


def _spec(tensor: Tensor) -> TensorSpec:
    quantization = tensor.quantization
    if quantization is None and tensor.dtype in ("int8", "uint8"):
        quantization = PLAIN
    return TensorSpec(tensor.name, cast(tuple[int, ...], tensor.dims), cast(DType, tensor.dtype), quantization)


def _inspect_onnx(path: Path) -> ModelFile:
    import onnxruntime

    content = path.read_bytes()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions share no other base class.
        raise DataError(f"{path}: ONNX Runtime does not load it: {error}") from error
    precision: Precision = "int8" if any(operator in content for operator in _INT8_OPERATORS) else "fp32"
    inputs, outputs = (
        tuple(
            Tensor(
                tensor.name,
                tuple(size if isinstance(size, int) and size > 0 else None for size in tensor.shape),
                _ONNX_TYPES.get(tensor.type, tensor.type.removeprefix("tensor(").removesuffix(")")),
            )
            for tensor in side
        )
        for side in (session.get_inputs(), session.get_outputs())
    )
    return ModelFile(path, "onnx", precision, inputs, outputs)


def _inspect_tflite(path: Path) -> ModelFile:
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_content=path.read_bytes(), num_threads=1)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise DataError(f"{path}: TFLite does not load it: {error}") from error
    stored = [detail["dtype"] for detail in interpreter.get_tensor_details() if detail["quantization"][0]]
    precision: Precision = "int8" if any(dtype in (np.int8, np.uint8) for dtype in stored) else "fp32"
    inputs, outputs = (
        tuple(_tflite_tensor(detail) for detail in side)
        for side in (interpreter.get_input_details(), interpreter.get_output_details())
    )
    return ModelFile(path, "tflite", precision, inputs, outputs)


def _tflite_tensor(detail: dict[str, Any]) -> Tensor:
    scale, zero_point = detail["quantization"]
    # An open batch is 1 as the file stands; any other open size would have to be chosen.
    sizes = zip(detail["shape"].tolist(), detail["shape_signature"].tolist(), strict=True)
    dims = tuple(size if place == 0 or signed > 0 else None for place, (size, signed) in enumerate(sizes))
    quantization = Quantization(float(scale), int(zero_point)) if scale else None
    return Tensor(str(detail["name"]), dims, np.dtype(detail["dtype"]).name, quantization)
