"""How new a frame is to this vehicle: d2 / (1 + d2), d2 being the mean squared distance of its features from those of
the frames before, in units of their variance: 0.5 at one standard deviation. Pure.

Features of an image are the mean brightness of nine fields and its contrast; those of a sample its numeric fields.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from roadloop_models.contract.streams import Stream

FloatArray = npt.NDArray[np.float64]

NEUTRAL = 0.5
_WARM = 8
"""Before so many frames everything would be new."""
_MEMORY = 2000.0
"""How far back the means reach: each further frame weighs 1/2000."""
_FIELDS = 3
_SIDE = 96
"""Pixels a side that are looked at, at most twice as many: a frame of any size costs the same."""


class Novelty:
    """The features seen so far, as weighted means and variances."""

    def __init__(self) -> None:
        self._count = 0.0
        self._mean = self._variance = np.zeros(0)

    def score(self, features: FloatArray) -> float:
        """How new these features [n] are, NaN for what is not known; they are remembered."""
        if len(features) != len(self._mean):  # the first, or another camera
            self._count, self._mean, self._variance = 0.0, np.nan_to_num(features), np.zeros(len(features))
        score = self._distance(features)
        self._count = min(self._count + 1.0, _MEMORY)
        weight, delta = 1.0 / self._count, np.nan_to_num(features - self._mean)
        self._mean = self._mean + weight * delta
        self._variance = (1.0 - weight) * (self._variance + weight * np.square(delta))
        return score

    def _distance(self, features: FloatArray) -> float:
        known = ~np.isnan(features)
        if self._count < _WARM or not known.any():
            return NEUTRAL
        # What never moved: a millionth of its size is no movement.
        spread = np.maximum(self._variance, np.square(1e-6 * (1.0 + np.abs(self._mean))))
        squared = float(np.mean((np.square(features - self._mean) / spread)[known]))
        return squared / (1.0 + squared)


def image_features(image: npt.NDArray[np.uint8]) -> FloatArray:
    """Of an RGB image uint8 [height, width, 3]: float64 [10]."""
    height, width = image.shape[:2]
    grey = image[:: max(1, height // _SIDE), :: max(1, width // _SIDE)].mean(axis=2)
    fields = [part.mean() for rows in np.array_split(grey, _FIELDS) for part in np.array_split(rows, _FIELDS, axis=1)]
    return np.array([*fields, grey.std()], dtype=np.float64)


def row_features(stream: Stream, row: Sequence[float]) -> FloatArray:
    """The numeric fields of a sample: float64 [n]."""
    pairs = zip(stream.fields, row, strict=True)
    return np.array([value for field, value in pairs if field.role == "numeric"], dtype=np.float64)
