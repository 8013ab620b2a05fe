"""From trained weights to the files of a bundle: every variant from the same weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from roadloop_cloud.training import quantize_onnx
from roadloop_cloud.training.imports import uncollected
from roadloop_cloud.training.quantize_onnx import Calibration
from roadloop_cloud.training.subject import ModelForm
from roadloop_models.bundle import Quantization, TensorSpec, Variant


def export_variants(
    model: torch.nn.Module,
    form: ModelForm,
    calibration: Calibration,
    directory: Path,
    *,
    with_fp32: bool,
    on_step: Callable[[int, int], None],
) -> tuple[Variant, ...]:
    """Write `onnx-int8`, `tflite-int8` and, where asked for, `onnx-fp32` below `directory`.

    Returns the variants; their golden tolerance is not measured yet (0).
    """
    with uncollected():  # not above: what only scores or explains converts nothing
        from roadloop_cloud.training import quantize_tflite

    example = tuple(torch.from_numpy(array) for array in calibration[0])
    inputs = list(form.inputs)
    fp32, int8, lite = (directory / name for name in ("model.fp32.onnx", "model.int8.onnx", "model.int8.tflite"))
    on_step(0, 3)
    quantize_onnx.export_onnx(model, example, inputs, list(form.outputs), fp32)
    on_step(1, 3)
    if form.kind == "conv":
        quantize_onnx.quantize_conv_net(fp32, int8, calibration, inputs)
        on_step(2, 3)
        quantize_tflite.quantize_conv_net(model, example, lite, calibration)
        onnx_settings, lite_settings = quantize_onnx.STATIC_SETTINGS, quantize_tflite.CONV_SETTINGS
        lite_quantizer = "ai-edge-quantizer"
    else:
        quantize_onnx.quantize_recurrent_net(fp32, int8)
        on_step(2, 3)
        quantize_tflite.quantize_recurrent_net(model, example, lite, calibration)
        onnx_settings, lite_settings = quantize_onnx.DYNAMIC_SETTINGS, quantize_tflite.RECURRENT_SETTINGS
        lite_quantizer = "torchao-pt2e"
    on_step(3, 3)
    rows = {"calibration_rows": len(calibration)}
    variants = [
        Variant("onnx", "int8", int8.name, *_onnx_tensors(int8), 0.0, "onnxruntime", onnx_settings | rows),
        Variant("tflite", "int8", lite.name, *_tflite_tensors(lite), 0.0, lite_quantizer, lite_settings | rows),
    ]
    if with_fp32:
        variants.append(Variant("onnx", "fp32", fp32.name, *_onnx_tensors(fp32), 0.0))
    return tuple(variants)


_Tensors = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]


def _onnx_tensors(path: Path) -> _Tensors:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs, outputs = (
        tuple(TensorSpec(tensor.name, tuple(tensor.shape), "float32") for tensor in side)
        for side in (session.get_inputs(), session.get_outputs())
    )
    return inputs, outputs


def _tflite_tensors(path: Path) -> _Tensors:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    # The file may list its tensors in any order; their names carry the number of the argument or result, one digit.
    inputs, outputs = (
        tuple(_tflite_tensor(detail) for detail in sorted(side, key=lambda detail: str(detail["name"])))
        for side in (interpreter.get_input_details(), interpreter.get_output_details())
    )
    return inputs, outputs


def _tflite_tensor(detail: dict[str, Any]) -> TensorSpec:
    scale, zero_point = detail["quantization"]
    quantization = Quantization(float(scale), int(zero_point)) if scale else None
    shape = tuple(int(size) for size in detail["shape"])
    return TensorSpec(str(detail["name"]), shape, detail["dtype"].__name__, quantization)
