"""The traffic-sign CNN.

Six 3x3 convolutions in three stages of 32, 64 and 128 channels, a 1x1 convolution and a linear head: 0.39 M
parameters. Halving the image in the first convolution would halve the cost, but loses a point of accuracy on signs
that were photographed from far away. Students and pruned versions are the same network with fewer channels.
"""

from collections.abc import Mapping

import torch
from torch import nn

CHANNELS = (32, 32, 64, 64, 128, 128, 128)
STAGES = ("features.2", "features.5", "features.8")
"""The poolings that end the stages: of equal height and width however many channels there are."""
_CONVOLUTIONS = (0, 1, 3, 4, 6, 7, 9)
"""Where in `features` they stand."""
_STEP = 8
"""Channels come in multiples of this: kernels compute as many at once."""
_PLACES = 4 * 4
"""Pixels that are left when the head reads them."""


def _block(channels_in: int, channels_out: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


class SignCnn(nn.Module):  # type: ignore[misc]
    """Standardized images float32 [n, 32, 32, 3] -> logits [n, classes].

    Images keep the camera's order of axes (height, width, channel), so that both runtimes take the same tensor.
    """

    def __init__(self, classes: int = 43, dropout: float = 0.5, channels: tuple[int, ...] = CHANNELS) -> None:
        """`channels`: those of the seven convolutions."""
        super().__init__()
        first, second, third, fourth, fifth, sixth, last = channels
        self.features = nn.Sequential(
            _block(3, first, 3),
            _block(first, second, 3),
            nn.MaxPool2d(2),
            _block(second, third, 3),
            _block(third, fourth, 3),
            nn.MaxPool2d(2),
            _block(fourth, fifth, 3),
            _block(fifth, sixth, 3),
            nn.MaxPool2d(2),
            _block(sixth, last, 1),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(last * _PLACES, classes))

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the seven convolutions."""
        return tuple(block[0].out_channels for block in self.blocks)

    @property
    def blocks(self) -> tuple[nn.Sequential, ...]:
        """The seven convolutions, each with its batch normalization and ReLU."""
        return tuple(self.features[index] for index in _CONVOLUTIONS)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of a batch of images."""
        logits: torch.Tensor = self.head(self.features(images.permute(0, 3, 1, 2)))
        return logits


def describe(channels: tuple[int, ...]) -> str:
    """One sentence for the model card."""
    *threes, one = (str(count) for count in channels)
    return (
        f"CNN: six 3x3 convolutions ({', '.join(threes)}) in three stages with max pooling, one 1x1 convolution "
        f"({one}), one linear layer"
    )


def channels_of(state: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
    """The channels of the network whose weights these are. Raises KeyError where they are of another network."""
    return tuple(len(state[f"features.{index}.0.weight"]) for index in _CONVOLUTIONS)


def parameter_count(channels: tuple[int, ...], classes: int = 43) -> int:
    """What a network of so many channels has to learn."""
    before = (3, *channels[:-1])
    kernels = (9,) * (len(channels) - 1) + (1,)
    learned = sum(a * b * area + 2 * b for a, b, area in zip(before, channels, kernels, strict=True))
    return learned + (channels[-1] * _PLACES + 1) * classes


def narrowed(channels: tuple[int, ...], share: float, classes: int = 43, *, last_share: float = 1.0) -> tuple[int, ...]:
    """The widest network of the same proportions with at most `share` (0 to 1) of the parameters, in steps of 8.

    Where something has to go, `last_share` of what its proportion would be is left to the last convolution, which the
    head reads pixel by pixel.
    Raises ValueError where even 8 channels a layer are too many.
    """
    if share >= 1:
        return channels
    budget = share * parameter_count(channels, classes)
    for percent in range(100, 0, -1):
        wanted = [percent / 100 * width for width in channels]
        wanted[-1] *= last_share
        scaled = tuple(
            min(width, max(_STEP, round(part / _STEP) * _STEP)) for width, part in zip(channels, wanted, strict=True)
        )
        if parameter_count(scaled, classes) <= budget:
            return scaled
    raise ValueError(f"no network of this kind has {budget:,.0f} parameters or fewer")
