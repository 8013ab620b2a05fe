"""The scene without its traffic, learned while looking: two remembered colours for each pixel, and the light.

Each pixel keeps the colour it has shown most (the background) and one candidate. A colour that has been seen in more
frames than the background takes its place; the one that it replaces is remembered, so that a vehicle which stood
until it was taken for background does not leave a hole when it drives on. Nothing is trained, and a vehicle that is
in the very first frame is forgotten as soon as the road behind it has been seen for as many frames.
"""

import numpy as np
import numpy.typing as npt

from roadloop_models.detect.detections import FloatArray
from roadloop_models.detect.letterbox import ImageArray

MEMORY_FRAMES = 300
"""How many frames of support a colour can gather: a vehicle that stands for as long becomes background."""
_SLOWEST = 1.0 / 60.0
"""A colour follows what is seen by at least this share of the difference per frame."""
_TOLERANCE, _TOLERANCE_SHARE = 8.0, 0.06
"""Two colours are the same within so many grey levels plus this share of the level."""
_STRIDE = 3
"""The light is measured on every third pixel of every third row."""
_GAIN = 2.0
"""The light may change by this factor between two frames; the rest is taken in the next."""
_DARK = 8.0
"""Below this grey level a pixel says nothing about the light."""
_LEAST_MATCHED, _LEAST_LIT = 0.1, 0.05
"""Shares of the pixels that are enough to measure the light on."""
_LOST_SHARE, _LOST_FRAMES = 0.2, 5
"""Where less than this share of the picture is background for so many frames, the camera sees another scene."""


class Background:
    """Follows one camera. Give it every frame, small: the cost is proportional to the pixels."""

    def __init__(self) -> None:
        self._lost = 0
        self._begin(np.empty((3, 0, 0), np.float32))

    def update(self, image: ImageArray) -> ImageArray:
        """uint8 RGB [h, w, 3] -> the background in the light of this frame, of the same shape.

        A frame of another size begins anew: the camera is another one, or looks elsewhere.
        """
        # Planes of one colour: sums and maxima over colours are several times faster than on interleaved pixels.
        seen = image.transpose(2, 0, 1).astype(np.float32, order="C")
        if seen.shape != self._background.shape:
            self._begin(seen)
        else:
            self._follow_light(seen)
            self._follow_colours(seen)
            self._lost = self._lost + 1 if self._matched.mean() < _LOST_SHARE else 0
            if self._lost >= _LOST_FRAMES:
                self._begin(seen)
        return np.ascontiguousarray(np.minimum(self._background, 255.0).astype(np.uint8).transpose(1, 2, 0))

    def _begin(self, seen: FloatArray) -> None:
        """Float planes [3, h, w], as everything below."""
        shape = seen.shape[1:]
        self._background, self._candidate = seen.copy(), seen.copy()
        self._support: npt.NDArray[np.float32] = np.ones(shape, np.float32)
        self._candidate_support: npt.NDArray[np.float32] = np.zeros(shape, np.float32)
        self._matched: npt.NDArray[np.bool_] = np.ones(shape, np.bool_)
        self._lost = 0

    def _follow_light(self, seen: FloatArray) -> None:
        """Exposure and daylight change all pixels by a factor: the median over what was background before."""
        before = self._background[:, ::_STRIDE, ::_STRIDE]
        ratios = (seen[:, ::_STRIDE, ::_STRIDE] + 1.0) / (before + 1.0)
        matched, lit = self._matched[::_STRIDE, ::_STRIDE], before[1] > _DARK
        chosen = ratios[:, lit & matched if matched.mean() >= _LEAST_MATCHED else lit]
        if chosen.shape[1] < _LEAST_LIT * lit.size:
            return
        gain = np.clip(np.median(chosen, axis=1), 1.0 / _GAIN, _GAIN).astype(np.float32).reshape(3, 1, 1)
        self._background *= gain
        self._candidate *= gain

    def _follow_colours(self, seen: FloatArray) -> None:
        difference = seen - self._background
        matched = _alike(difference, self._background)
        rate = np.maximum(1.0 / (self._support + 1.0), _SLOWEST)
        rate *= matched
        difference *= rate
        self._background += difference
        np.minimum(self._support + matched, MEMORY_FRAMES, out=self._support)
        self._matched = matched
        covered = np.nonzero(~matched)
        if len(covered[0]):
            self._follow_candidates(seen, covered)

    def _follow_candidates(self, seen: FloatArray, covered: tuple[npt.NDArray[np.intp], ...]) -> None:
        """Where the background is not seen: is it the candidate, or something else again?"""
        rows, columns = covered
        shown, candidate = seen[:, rows, columns], self._candidate[:, rows, columns]
        support = self._candidate_support[rows, columns]
        difference = shown - candidate
        same = _alike(difference, candidate) & (support > 0)
        candidate += difference * (np.maximum(1.0 / (support + 1.0), _SLOWEST) * same)
        support += np.where(same, 1.0, -1.0)
        # What is neither wears the candidate out, and then it is the candidate.
        worn = support < 0
        candidate[:, worn], support[worn] = shown[:, worn], 1.0
        background_support = self._support[rows, columns]
        better = support > background_support
        if better.any():
            background = self._background[:, rows, columns]
            self._background[:, rows, columns] = np.where(better, candidate, background)
            self._support[rows, columns] = np.where(better, support, background_support)
            candidate, support = np.where(better, background, candidate), np.where(better, background_support, support)
        self._candidate[:, rows, columns], self._candidate_support[rows, columns] = candidate, support


def _alike(difference: FloatArray, level: FloatArray) -> npt.NDArray[np.bool_]:
    """Whether two colours differ by no more than the tolerance: [3, ...] -> bool [...]."""
    tolerance = level[0] + level[1]
    tolerance += level[2]
    tolerance *= np.float32(_TOLERANCE_SHARE / 3.0)
    tolerance += np.float32(_TOLERANCE)
    size = np.abs(difference)
    largest = np.maximum(size[0], size[1])
    np.maximum(largest, size[2], out=largest)
    alike: npt.NDArray[np.bool_] = largest < tolerance
    return alike
