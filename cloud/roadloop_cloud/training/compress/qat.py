"""Quantization-aware training of convolutional networks: the loss is that of a network rounded as int8 rounds it.

Weights are rounded by output channel, symmetrically, to 7 bits as the ONNX file has them (the TFLite file's 8 are
finer); the batch normalization behind a convolution scales whole channels, so it changes nothing of the rounding.
Activations behind each ReLU are rounded to 8 bits over the range seen so far. Gradients pass the rounding as if it were
not there. The model itself stays in floating point, and is quantized afterwards as any other.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
import torch.nn.functional as F

from roadloop_cloud.training.train import Batch, Learner

_WEIGHT_LEVELS = 63
_ACTIVATION_LEVELS = 255
_RANGE_DECAY = 0.95
"""Of the average of the activations' largest values, per batch."""


class QatLearner:
    """The batches and the loss of another learner, asked of the rounded network."""

    def __init__(self, inner: Learner) -> None:
        self._inner = inner
        self._largest: dict[str, float] = {}

    @property
    def batches_per_epoch(self) -> int:
        """As many as the inner learner has."""
        return self._inner.batches_per_epoch

    def batches(self, generator: torch.Generator) -> Iterator[Batch]:
        """Those of the inner learner."""
        return self._inner.batches(generator)

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The inner learner's, of the rounded network."""
        with rounded(model, self._largest):
            return self._inner.loss(model, batch)


def round_weight(weight: torch.Tensor) -> torch.Tensor:
    """By the first axis, symmetrically, to 7 bits."""
    count = len(weight)
    scale = weight.detach().flatten(1).abs().amax(dim=1).clamp(min=1e-8) / _WEIGHT_LEVELS
    zero = torch.zeros(count, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -_WEIGHT_LEVELS, _WEIGHT_LEVELS)


@contextmanager
def rounded(model: torch.nn.Module, largest: dict[str, float]) -> Iterator[None]:
    """Inside, the model computes with rounded weights and activations.

    `largest`: module name -> the average of its largest activation, brought up to date where the module trains.
    """
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.ReLU):
                hook = module.register_forward_hook(partial(_round_activation, largest, name))
                stack.callback(hook.remove)
            elif isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.forward = partial(_with_rounded_weight, module)
                stack.callback(delattr, module, "forward")
        yield


def _with_rounded_weight(module: torch.nn.Conv2d | torch.nn.Linear, values: torch.Tensor) -> torch.Tensor:
    weight = round_weight(module.weight)
    if isinstance(module, torch.nn.Linear):
        return F.linear(values, weight, module.bias)
    return F.conv2d(values, weight, module.bias, module.stride, module.padding, module.dilation, module.groups)


def _round_activation(
    largest: dict[str, float], name: str, module: torch.nn.Module, _inputs: object, values: torch.Tensor
) -> torch.Tensor:
    seen = float(values.detach().amax())
    if module.training:
        largest[name] = _RANGE_DECAY * largest.get(name, seen) + (1 - _RANGE_DECAY) * seen
    scale = max(largest.get(name, seen), 1e-8) / _ACTIVATION_LEVELS
    return torch.fake_quantize_per_tensor_affine(values, scale, 0, 0, _ACTIVATION_LEVELS)
