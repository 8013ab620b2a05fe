"""The vehicle-count network: where in a frame, seen beside its background, vehicles are.

A small encoder and decoder of 3x3 convolutions. It looks at a quarter of the resolution and answers there; context
comes from a sixteenth, which sees most of the picture, so that a large vehicle is one vehicle.
"""

import torch
import torch.nn.functional as F
from torch import nn

from roadloop_models.counting.foreground import CHANNELS

OUTPUTS = 5


def _block(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


class ForegroundCnn(nn.Module):  # type: ignore[misc]
    """Scenes float32 [n, h, w, 6] (`ForegroundPair`) -> float32 [n, h / 4, w / 4, 5], all 0 to 1 (see `HeatBoxes`).

    Channel 0 is the heat: 1 in the middle of a vehicle. 1 to 4 say how far its left, upper, right and lower edges are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _block(CHANNELS, 16, stride=2)
        self.quarter = nn.Sequential(_block(16, 24, stride=2), _block(24, 24))
        self.eighth = nn.Sequential(_block(24, 40, stride=2), _block(40, 40))
        self.sixteenth = nn.Sequential(_block(40, 64, stride=2), _block(64, 64), _block(64, 64))
        self.to_eighth = nn.Conv2d(64, 40, 1)
        self.at_eighth = _block(40, 40)
        self.to_quarter = nn.Conv2d(40, 24, 1)
        self.at_quarter = nn.Sequential(_block(24, 32), _block(32, 32))
        self.head = nn.Conv2d(32, OUTPUTS, 1)
        # Nearly everywhere there is no vehicle: begin with that.
        nn.init.constant_(self.head.bias, -2.5)

    def forward(self, scenes: torch.Tensor) -> torch.Tensor:
        """Heat and edges of a batch of scenes."""
        quarter = self.quarter(self.stem(scenes.permute(0, 3, 1, 2)))
        eighth = self.eighth(quarter)
        context = self.to_eighth(self.sixteenth(eighth))
        eighth = self.at_eighth(eighth + F.interpolate(context, scale_factor=2.0, mode="nearest"))
        quarter = self.at_quarter(quarter + F.interpolate(self.to_quarter(eighth), scale_factor=2.0, mode="nearest"))
        answer: torch.Tensor = self.head(quarter).sigmoid().permute(0, 2, 3, 1)
        return answer
