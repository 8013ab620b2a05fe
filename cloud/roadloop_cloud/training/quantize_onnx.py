"""From a torch model to ONNX files: fp32, and int8 the way ONNX Runtime runs it fastest.

Convolutions are quantized statically (QDQ, unsigned activations, signed weights by channel). An LSTM has no static
form in ONNX Runtime, so that one is quantized dynamically.

Weights use 7 of their 8 bits (`reduce_range`). On x86 without VNNI the sum of two products of full 8-bit numbers
saturates at 16 bits, and the same file then answers something else there.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from roadloop_models.runners import FloatArray

if TYPE_CHECKING:  # quantizing a file needs no torch, and importing it costs seconds
    import torch

OPSET = 18
STATIC_SETTINGS: dict[str, Any] = {
    "format": "QDQ",
    "activations": "uint8",
    "weights": "int8",
    "per_channel": True,
    "method": "minmax",
}
DYNAMIC_SETTINGS: dict[str, Any] = {
    "weights": "int8",
    "per_channel": True,
    "weight_bits": 7,
    "operators": ["LSTM", "MatMul"],
}

Calibration = list[tuple[FloatArray, ...]]
"""Input tensors of one inference each, from training rows."""


def export_onnx(
    model: "torch.nn.Module", example: "tuple[torch.Tensor, ...]", inputs: list[str], outputs: list[str], path: Path
) -> None:
    """Write the model in fp32 with these tensor names; shapes are those of `example`."""
    import torch

    program = torch.onnx.export(
        model.eval(),
        example,
        input_names=inputs,
        output_names=outputs,
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    program.save(str(path))
    _strip(path)


def quantize_conv_net(
    source: Path, target: Path, calibration: Calibration, inputs: list[str], float_nodes: Sequence[str] = ()
) -> None:
    """Write the int8 file of a convolutional network; the nodes of these names stay in floating point."""
    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        target,
        _Rows(calibration, inputs),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        calibrate_method=CalibrationMethod.MinMax,
        nodes_to_exclude=list(float_nodes),
    )
    prepared.unlink()
    _strip(target)


def quantize_recurrent_net(source: Path, target: Path) -> None:
    """Write the int8 file of a recurrent network: weights by channel, activations as they come."""
    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantize_dynamic(
        prepared,
        target,
        op_types_to_quantize=["LSTM", "MatMul"],
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
    )
    prepared.unlink()
    _strip(target)


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, calibration: Calibration, inputs: list[str]) -> None:
        self._rows: Iterator[tuple[FloatArray, ...]] = iter(calibration)
        self._inputs = inputs

    def get_next(self) -> dict[str, Any] | None:
        row = next(self._rows, None)
        return None if row is None else dict(zip(self._inputs, row, strict=True))


def _strip(path: Path) -> None:
    """Take out what only describes the export: it names source files of this machine and makes the file larger."""
    model = onnx.load(str(path))
    model.doc_string = ""
    model.graph.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))
