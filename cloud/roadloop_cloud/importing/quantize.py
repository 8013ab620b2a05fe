"""An int8 file of a third-party ONNX network: static QDQ, as the project's own are made."""

from pathlib import Path
from typing import Any

from roadloop_cloud.importing.inspect import ModelFile, inspect_file
from roadloop_models.errors import DataError, RuntimeMissingError
from roadloop_models.preprocess import FloatArray

OPSET = 17
"""Weights by channel need opset 13; older files are converted."""
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def quantize_file(file: ModelFile, calibration: list[tuple[FloatArray, ...]], target: Path) -> ModelFile:
    """Write the int8 file of `file` to `target`, calibrated with these input tensors.

    What follows the last products (sigmoids, and the joining of boxes with scores, which have other ranges) stays in
    floating point. Raises DataError where the file cannot be converted or quantized, RuntimeMissingError without the
    onnx package.
    """
    try:
        import onnx

        from roadloop_cloud.training.quantize_onnx import quantize_conv_net
    except ImportError as error:
        raise RuntimeMissingError(f"quantizing needs the onnx package ({error}); install roadloop[train]") from error
    converted = target.with_suffix(".converted.onnx")
    try:
        model = _newer(onnx.load(str(file.path)))
        for number, node in enumerate(model.graph.node):
            node.name = node.name or f"node_{number}"
        onnx.save(model, str(converted))
        quantize_conv_net(converted, target, calibration, [tensor.name for tensor in file.inputs], _tail(model))
    except Exception as error:  # the converter and the quantizer raise whatever they stumble over
        raise DataError(
            f"{file.path}: ONNX Runtime cannot quantize it: {error}; import it without --calibrate"
        ) from error
    finally:
        converted.unlink(missing_ok=True)
    return inspect_file(target, "onnx")


def _newer(model: Any) -> Any:
    from onnx import version_converter

    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), OPSET)
    return model if version >= OPSET else version_converter.convert_version(model, OPSET)


def _tail(model: Any) -> list[str]:
    """The names of the nodes between the outputs and the last products before them."""
    maker = {output: node for node in model.graph.node for output in node.output}
    todo = [output.name for output in model.graph.output]
    tail: set[str] = set()
    while todo:
        node = maker.get(todo.pop())
        if node is not None and node.op_type not in _PRODUCTS and node.name not in tail:
            tail.add(node.name)
            todo += node.input
    return sorted(tail)
