"""From a torch model to TFLite files: fp32, and static int8 that LiteRT and the older tflite-runtime compute alike.

Convolutional networks are quantized by ai-edge-quantizer, recurrent ones by PT2E before conversion (the best of what
was tried for each). Both use internals of their packages, which is why pyproject pins every one of them.
"""

from pathlib import Path
from typing import Any

import litert_torch
import torch
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe
from ai_edge_quantizer.calibrator import Calibrator
from ai_edge_quantizer.utils import qsv_utils
from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
from litert_torch.quantize.quant_config import QuantConfig
from torch._decomp import get_decompositions
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from roadloop_cloud.training.quantize_onnx import Calibration
from roadloop_models.errors import FailedError

CONV_SETTINGS: dict[str, Any] = {"recipe": "static_wi8_ai8", "calibration": "minmax"}
RECURRENT_SETTINGS: dict[str, Any] = {
    "method": "static",
    "observer": "histogram",
    "per_channel": True,
    "cell_state": "float32",
}
_SIGNATURE = "serving_default"
_CHECKED_ROWS, _CONVERSION_SHARE = 4, 1e-3
"""A converted float network must answer the same within this share of its largest output."""


def quantize_conv_net(
    model: torch.nn.Module, example: tuple[torch.Tensor, ...], target: Path, calibration: Calibration
) -> None:
    """Write the static int8 file of a convolutional network.

    Raises FailedError where the converter's float file does not compute what the model does.
    """
    source = target.with_suffix(".float.tflite")
    # Of weights in channels-last order the converter keeps views of memory that it has given back: now and then a layer
    # comes out with the numbers of another.
    model = model.to(memory_format=torch.contiguous_format)
    # Conversion in training mode fails on dropout with "Lowering not found: aten.rand_like".
    litert_torch.convert(model.eval(), example).export(str(source))
    _check_conversion(model, source, calibration[:_CHECKED_ROWS])
    int8 = quantizer.Quantizer(str(source))
    int8.load_quantization_recipe(recipe.static_wi8_ai8())
    # Quantizer.calibrate() smooths the extremes and so clips them: four times the error of plain minima and maxima.
    calibrator = Calibrator(str(source), num_threads=1, qsv_update_func=qsv_utils.min_max_update)
    rows = [{f"args_{index}": array for index, array in enumerate(row)} for row in calibration]
    calibrator.calibrate({_SIGNATURE: rows}, int8._recipe_manager)
    result = int8.quantize(calibrator.get_model_qsvs(), enable_progress_bar=False, enable_progress_report=False)
    target.write_bytes(bytes(result.quantized_model))
    source.unlink()


def _check_conversion(model: torch.nn.Module, path: Path, rows: Calibration) -> None:
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    # The file may list its tensors in any order; their names end in their numbers.
    inputs, outputs = (
        sorted(details, key=lambda detail: str(detail["name"]))
        for details in (interpreter.get_input_details(), interpreter.get_output_details())
    )
    for row in rows:
        for detail, array in zip(inputs, row, strict=True):
            interpreter.set_tensor(detail["index"], array)
        interpreter.invoke()
        with torch.no_grad():
            answer = model(*(torch.from_numpy(array) for array in row))
        for detail, wanted in zip(outputs, answer if isinstance(answer, tuple) else (answer,), strict=True):
            off = float(abs(interpreter.get_tensor(detail["index"]) - wanted.numpy()).max())
            if not off <= _CONVERSION_SHARE * max(1.0, float(wanted.abs().max())):
                raise FailedError(f"{path.name}: the converted network answers {off:.3g} off the one that was trained")


def quantize_recurrent_net(
    model: torch.nn.Module, example: tuple[torch.Tensor, ...], target: Path, calibration: Calibration
) -> None:
    """Write the static int8 file of a recurrent network: matrix products in int8, the cell's sums in float32.

    The cell state adds up over the window, so its int8 rounding would add up too.
    """
    pt2e = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False))
    # Whole, the LSTM is one operator that the quantizer does not know and leaves in float32.
    unrolled = get_decompositions([torch.ops.aten.lstm.input])
    exported = torch.export.export(model.eval(), example).run_decompositions(unrolled).module()
    prepared: Any = prepare_pt2e(exported, pt2e)
    with torch.no_grad():
        for row in calibration:
            prepared(*(torch.from_numpy(array) for array in row))
    converted = convert_pt2e(prepared, fold_quantize=False)
    litert_torch.convert(converted, example, quant_config=QuantConfig(pt2e_quantizer=pt2e)).export(str(target))
