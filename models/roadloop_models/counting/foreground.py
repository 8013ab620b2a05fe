"""What the foreground network looks at: a frame beside the same scene without its traffic."""

from typing import NamedTuple

import numpy as np

from roadloop_models.bundle.manifest import Preprocess
from roadloop_models.detect.detections import FloatArray
from roadloop_models.detect.letterbox import ImageArray, Placement
from roadloop_models.errors import ModelInputError

CHANNELS = 6
_LEAST_LEVEL = 10.0
"""Added to the mean grey level, so that a black picture is not blown up."""
_CONTRAST = 2.0
"""Differences are small beside levels; doubled they use the 8 bits of the tensor better."""


class Scene(NamedTuple):
    """A frame and its background: uint8 RGB [h, w, 3], both as `ForegroundPair.fit` makes them."""

    frame: ImageArray
    background: ImageArray


class ForegroundPair:
    """`foreground-pair`: a `Scene` -> float32 [1, height, width, 6].

    Channels 0-2 are the frame's levels, 3-5 twice its difference from the background; both in units of the
    background's mean level and clipped to +-`clip`. Frames keep their proportions; what they leave of the picture is 0.
    """

    name = "foreground-pair"

    def __init__(self, height: int = 112, width: int = 192, clip: float = 2.0) -> None:
        self._height, self._width = height, width
        self._clip = np.float32(clip)

    @property
    def spec(self) -> Preprocess:
        """What a manifest says to get this very function."""
        return Preprocess(self.name, {"height": self._height, "width": self._width, "clip": float(self._clip)})

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """The shape of the tensor."""
        return (1, self._height, self._width, CHANNELS)

    def placement(self, height: int, width: int) -> Placement:
        """Where a frame of that size lies in the picture: as large as possible, centred."""
        scale = min(self._height / height, self._width / width)
        rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
        return Placement(width, height, (self._width - columns) // 2, (self._height - rows) // 2, columns, rows)

    def fit(self, frame: ImageArray) -> ImageArray:
        """A uint8 RGB frame of any size at the size it has inside the picture. Raises ModelInputError."""
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or 0 in frame.shape:
            raise ModelInputError(f"frame is {frame.dtype} {list(frame.shape)}, expected uint8 RGB [height, width, 3]")
        height, width, _ = frame.shape
        placed = self.placement(height, width)
        if (placed.height, placed.width) == (height, width):
            return frame
        import cv2

        fitted: ImageArray = cv2.resize(frame, (placed.width, placed.height), interpolation=cv2.INTER_AREA)
        return fitted

    def __call__(self, scene: Scene) -> tuple[FloatArray]:
        frame, background = scene.frame.astype(np.float32), scene.background.astype(np.float32)
        rows, columns, _ = frame.shape
        if rows > self._height or columns > self._width or frame.shape != background.shape:
            raise ModelInputError(
                f"scene is {list(frame.shape)} and {list(background.shape)}, expected two equal pictures of at most "
                f"{[self._height, self._width, 3]}"
            )
        level = np.float32(background.mean())
        unit = np.float32(1.0) / (level + np.float32(_LEAST_LEVEL))
        top, left = (self._height - rows) // 2, (self._width - columns) // 2
        levels = frame - level
        levels *= unit
        frame -= background
        frame *= unit * np.float32(_CONTRAST)
        for values in (levels, frame):
            np.maximum(values, -self._clip, out=values)
            np.minimum(values, self._clip, out=values)
        import cv2

        picture = np.zeros(self.input_shape, np.float32)
        # Merging is several times faster than writing into every second triple of the picture.
        picture[0, top : top + rows, left : left + columns] = cv2.merge([levels, frame])
        return (picture,)
