"""What the converter makes of a network is held against the network itself."""

from pathlib import Path
from typing import Any

import litert_torch
import numpy as np
import pytest
import torch

from roadloop_cloud.training.quantize_onnx import Calibration
from roadloop_cloud.training.quantize_tflite import quantize_conv_net
from roadloop_models.errors import FailedError

pytestmark = pytest.mark.slow


def _network(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    layers = [torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, padding=1)]
    return torch.nn.Sequential(*layers).to(memory_format=torch.channels_last)


def _rows() -> Calibration:
    generator = np.random.default_rng(0)
    return [(generator.normal(size=(1, 3, 8, 8)).astype(np.float32),) for _ in range(8)]


def test_a_network_in_channels_last_order_is_converted_as_it_is(tmp_path: Path) -> None:
    rows, target = _rows(), tmp_path / "model.int8.tflite"
    quantize_conv_net(_network(1), (torch.from_numpy(rows[0][0]),), target, rows)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_a_converter_that_exchanges_weights_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = litert_torch.convert

    def wrong(model: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> Any:
        return convert(_network(2).eval(), example)

    monkeypatch.setattr(litert_torch, "convert", wrong)
    rows = _rows()
    with pytest.raises(FailedError, match="off the one that was trained"):
        quantize_conv_net(_network(1), (torch.from_numpy(rows[0][0]),), tmp_path / "model.int8.tflite", rows)
    assert not (tmp_path / "model.int8.tflite").exists()
