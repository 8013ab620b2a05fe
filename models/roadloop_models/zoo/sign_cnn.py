"""The traffic-sign CNN.

Six 3x3 convolutions in three stages of 32, 64 and 128 channels, a 1x1 convolution and a linear head: 0.39 M
parameters. Halving the image in the first convolution would halve the cost, but loses a point of accuracy on signs
that were photographed from far away.
"""

import torch
from torch import nn


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

    def __init__(self, classes: int = 43, dropout: float = 0.5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _block(3, 32, 3),
            _block(32, 32, 3),
            nn.MaxPool2d(2),
            _block(32, 64, 3),
            _block(64, 64, 3),
            nn.MaxPool2d(2),
            _block(64, 128, 3),
            _block(128, 128, 3),
            nn.MaxPool2d(2),
            _block(128, 128, 1),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(128 * 4 * 4, classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of a batch of images."""
        logits: torch.Tensor = self.head(self.features(images.permute(0, 3, 1, 2)))
        return logits
