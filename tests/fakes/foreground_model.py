"""A model of vehicle-count without weights: what differs from the background is a vehicle, one in each third."""

from dataclasses import dataclass, field
from typing import cast

import numpy as np

from roadloop_agent.drive.pipeline import Model
from roadloop_models.counting.foreground import ForegroundPair
from roadloop_models.counting.heat import STRIDE, HeatBoxes, heat_targets
from roadloop_models.preprocess import FloatArray

_DIFFERENT = 0.5


@dataclass
class ThresholdModel:
    """As `Model`, as far as counting looks at it."""

    preprocess: ForegroundPair = field(default_factory=lambda: ForegroundPair(48, 96))
    release: int = 7
    name: str = "vehicle-count threshold-1"
    broken: bool = False
    """Answer NaN."""

    @property
    def postprocess(self) -> HeatBoxes:
        return HeatBoxes(self.preprocess)

    def run(self, inputs: tuple[FloatArray, ...]) -> tuple[FloatArray, ...]:
        """The bounding box of what differs in each third of the picture's width, as the network would answer."""
        (picture,) = inputs
        different = np.abs(picture[0, :, :, 3:]).max(axis=2) > _DIFFERENT
        height, width = different.shape
        boxes = []
        for left in range(0, width, width // 3):
            rows, columns = np.nonzero(different[:, left : left + width // 3])
            if len(rows) > 8:
                boxes.append((left + columns.min(), rows.min(), left + columns.max() + 1, rows.max() + 1))
        heat, edges, _ = heat_targets(np.array(boxes, np.float64).reshape(-1, 4), height // STRIDE, width // STRIDE)
        answer = np.concatenate([heat[:, :, None], edges], axis=2)[None]
        return (np.full_like(answer, np.nan) if self.broken else answer,)


def threshold_model() -> tuple[ThresholdModel, Model]:
    """The fake, and the same as what handlers take."""
    fake = ThresholdModel()
    return fake, cast(Model, fake)
