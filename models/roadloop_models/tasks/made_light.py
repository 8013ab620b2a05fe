"""The light on made traffic, and the camera that sees it: weather, exposure, tone, shake, noise, compression."""

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from roadloop_models.preprocess import ImageArray

FloatImage = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]
_GRAIN = 64
"""How many rows and columns the field of noise is larger than the picture."""


class Weather:
    """Light of the scene: a drift, sometimes a step, sometimes the shadow of a cloud passing."""

    def __init__(self, generator: np.random.Generator, width: int, height: int) -> None:
        self._level, self._drift = 1.0, float(generator.normal(0, 0.002))
        self._step_at = int(generator.integers(10, 150)) if generator.random() < 0.25 else -1
        self._clouds = cloud(generator, height, 3 * width, 3) if generator.random() < 0.3 else None
        self._depth, self._speed = float(generator.uniform(0.1, 0.4)), float(generator.uniform(0.5, 4.0))
        self._size = (height, width)
        self._index = 0

    def next(self, generator: np.random.Generator) -> FloatImage:
        """Of the next frame: float32 [h, w, 1]."""
        self._index += 1
        self._level = float(np.clip(self._level * (1.0 + self._drift), 0.5, 1.6))
        if self._index == self._step_at:
            self._level *= float(generator.uniform(0.65, 1.5))
        height, width = self._size
        light = np.full((height, width, 1), self._level, np.float32)
        if self._clouds is not None:
            start = int(self._index * self._speed) % (2 * width)
            light *= 1.0 - self._depth * np.clip(self._clouds[:, start : start + width, None] + 0.3, 0.0, 1.0)
        return light


class Lens:
    """From light to a file: exposure that reacts, tone curve, shake, blur, noise, compression."""

    def __init__(self, generator: np.random.Generator, width: int, height: int) -> None:
        self._exposure, self._target = 1.0, float("nan")
        self._reacts = float(generator.uniform(0.3, 1.0)) if generator.random() < 0.6 else 0.0
        self._lag = float(generator.uniform(0.1, 0.6))
        gamma = float(np.exp(generator.normal(0, 0.2)))
        self._curve = np.round(255.0 * (np.arange(256) / 255.0) ** gamma).astype(np.uint8)
        self._cast = np.exp(generator.normal(0, 0.06, 3)).astype(np.float32)
        self._level = float(generator.uniform(0.45, 1.25))
        self._shake_px = float(generator.uniform(0.2, 1.6)) * width / 384 if generator.random() < 0.35 else 0.0
        self._sway = np.zeros(2)
        self._blur = float(generator.uniform(0.2, 1.0)) * width / 384
        # Drawing new noise for every frame would take most of the time; a window wanders over one field of it.
        grain = generator.normal(0, 1, (height + _GRAIN, width + _GRAIN, 1)).astype(np.float32)
        grain = grain + generator.normal(0, 0.5, (height + _GRAIN, width + _GRAIN, 3)).astype(np.float32)
        self._grain = np.round(grain * generator.uniform(0.5, 8.0)).astype(np.int16)
        self._quality = int(generator.integers(25, 96))

    @property
    def shift_px(self) -> Points:
        """How far the mast's sway moves the picture now: x, y."""
        return self._sway.copy()

    def expose(self, picture: FloatImage, generator: np.random.Generator) -> Callable[[FloatImage], ImageArray]:
        """Move on by one frame, whose light is `picture`; returns what the lens makes of a picture in that moment."""
        mean = float(picture[::4, ::4].mean()) + 1.0
        self._target = mean if np.isnan(self._target) else self._target
        self._exposure += self._lag * ((self._target / mean) ** (3.0 * self._reacts) - self._exposure)
        self._sway = 0.8 * self._sway + generator.normal(0, 0.6 * self._shake_px, 2)
        return partial(self._seen, self._cast * np.float32(self._level * self._exposure), self._sway)

    def _seen(self, gain: FloatImage, sway: Points, picture: FloatImage) -> ImageArray:
        import cv2

        value = cv2.GaussianBlur(np.minimum(picture * gain, 255.0).astype(np.uint8), (0, 0), self._blur)
        if self._shake_px:
            turn = np.array([[1.0, 0.0, sway[0]], [0.0, 1.0, sway[1]]])
            value = cv2.warpAffine(value, turn, value.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
        seen: ImageArray = cv2.LUT(value, self._curve)
        return seen

    def compressed(self, seen: ImageArray, generator: np.random.Generator) -> ImageArray:
        """With noise, from a JPEG file of the clip's quality."""
        import cv2

        row, column = generator.integers(0, _GRAIN, 2)
        height, width, _ = seen.shape
        noisy = cv2.add(seen, self._grain[row : row + height, column : column + width], dtype=cv2.CV_8U)
        _, packed = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, self._quality])
        image = cv2.imdecode(packed, cv2.IMREAD_COLOR)
        assert image is not None, "what was just encoded can be decoded"
        return np.asarray(image, np.uint8)


def cloud(generator: np.random.Generator, height: int, width: int, cells: int) -> FloatImage:
    """Smooth noise of deviation about 0.5: float32 [h, w]."""
    import cv2

    coarse = generator.normal(0, 0.6, (cells, max(2, cells * width // height))).astype(np.float32)
    noise: FloatImage = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return noise
