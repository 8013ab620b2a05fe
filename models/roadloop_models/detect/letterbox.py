"""`image-letterbox`: an image of any size as the tensor that a third-party model takes, and boxes back again.

Detectors differ in how they bring an image to their size (`fit`), in layout, in the order of the channels and in what
they make of a pixel: tensor = (pixel * scale - mean) / std, by channel in the model's own order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from roadloop_models.bundle.manifest import Preprocess
from roadloop_models.detect.detections import Detections, FloatArray
from roadloop_models.errors import ModelInputError

ImageArray = npt.NDArray[np.uint8]
Fit = Literal["stretch", "corner", "center"]
"""`stretch` changes the aspect ratio; the others keep it and pad: right and below (`corner`), or all around."""
Layout = Literal["nchw", "nhwc"]
Order = Literal["rgb", "bgr"]
FITS: tuple[str, ...] = get_args(Fit)
LAYOUTS: tuple[str, ...] = get_args(Layout)
ORDERS: tuple[str, ...] = get_args(Order)


@dataclass(frozen=True)
class Placement:
    """Where an image of `image_width` x `image_height` lies in the model's input, all in pixels of that input."""

    image_width: int
    image_height: int
    left: int
    top: int
    width: int
    height: int

    def to_image(self, found: Detections) -> Detections:
        """Boxes in pixels of the model's input as boxes in pixels of the image, cut at its borders."""
        across, down = self.image_width / self.width, self.image_height / self.height
        right, bottom = float(self.image_width), float(self.image_height)
        boxes = [
            (
                min(max(0.0, (x1 - self.left) * across), right),
                min(max(0.0, (y1 - self.top) * down), bottom),
                min(max(0.0, (x2 - self.left) * across), right),
                min(max(0.0, (y2 - self.top) * down), bottom),
            )
            for x1, y1, x2, y2 in found.boxes
        ]
        return Detections(boxes, found.scores, found.classes)


class ImageLetterbox:
    """uint8 RGB [h, w, 3] -> float32 [1, 3, height, width] (`nchw`) or [1, height, width, 3] (`nhwc`)."""

    name = "image-letterbox"

    def __init__(
        self,
        height: int,
        width: int,
        *,
        layout: str = "nchw",
        order: str = "rgb",
        fit: str = "stretch",
        scale: float = 1.0,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        pad: int = 114,
    ) -> None:
        """Raises ValueError naming the parameter that is out of range."""
        for key, value, known in (("layout", layout, LAYOUTS), ("order", order, ORDERS), ("fit", fit, FITS)):
            if value not in known:
                raise ValueError(f"{key} is {value!r}, known are {', '.join(known)}")
        if not (1 <= height <= 8192 and 1 <= width <= 8192 and 0 <= pad <= 255):
            raise ValueError(f"height {height}, width {width} or pad {pad} is out of range")
        self._mean, self._std = mean or [0.0] * 3, std or [1.0] * 3
        if len(self._mean) != 3 or len(self._std) != 3 or min(self._std) <= 0 or scale <= 0:
            raise ValueError("scale and std must be positive, mean and std have one value for each of 3 channels")
        self.height, self.width = height, width
        self.layout, self.order, self.fit, self.scale, self.pad = layout, order, fit, scale, pad
        self._factors = [np.float32(scale / deviation) for deviation in self._std]
        self._shifts = [np.float32(mean / deviation) for mean, deviation in zip(self._mean, self._std, strict=True)]
        self._shifted = any(self._shifts)
        self._canvas: ImageArray = np.full((height, width, 3), pad, dtype=np.uint8)
        self._placed: Placement | None = None

    @property
    def spec(self) -> Preprocess:
        """What a manifest says to get this very function."""
        params: dict[str, float | int | str | list[float]] = {
            "height": self.height,
            "width": self.width,
            "layout": self.layout,
            "order": self.order,
            "fit": self.fit,
            "scale": self.scale,
            "mean": self._mean,
            "std": self._std,
            "pad": self.pad,
        }
        return Preprocess(self.name, params)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """The shape of the tensor."""
        return (1, 3, self.height, self.width) if self.layout == "nchw" else (1, self.height, self.width, 3)

    @property
    def input_range(self) -> tuple[float, float]:
        """The least and the largest value that a tensor can have."""
        pairs = list(zip(self._factors, self._shifts, strict=True))
        return min(float(-shift) for _, shift in pairs), max(float(255 * factor - shift) for factor, shift in pairs)

    def placement(self, height: int, width: int) -> Placement:
        """Where an image of that size comes to lie."""
        if self.fit == "stretch":
            return Placement(width, height, 0, 0, self.width, self.height)
        ratio = min(self.width / width, self.height / height)
        inner_width, inner_height = max(1, int(width * ratio)), max(1, int(height * ratio))
        if self.fit == "corner":
            return Placement(width, height, 0, 0, inner_width, inner_height)
        left, top = (self.width - inner_width) // 2, (self.height - inner_height) // 2
        return Placement(width, height, left, top, inner_width, inner_height)

    def __call__(self, image: ImageArray) -> tuple[FloatArray]:
        """Raises ModelInputError where `image` is none."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise ModelInputError(f"image is {image.dtype} {list(image.shape)}, expected uint8 RGB [height, width, 3]")
        fitted = self._fitted(image)
        tensor: FloatArray = np.empty(self.input_shape, dtype=np.float32)
        planes = tensor[0] if self.layout == "nchw" else tensor[0].transpose(2, 0, 1)
        channels = (0, 1, 2) if self.order == "rgb" else (2, 1, 0)
        for index, channel in enumerate(channels):
            # Contiguous planes first: arithmetic on every third byte takes twice as long.
            np.multiply(fitted[channel], self._factors[index], out=planes[index])
            if self._shifted:
                planes[index] -= self._shifts[index]
        return (tensor,)

    def _fitted(self, image: ImageArray) -> Sequence[ImageArray]:
        """The R, G and B planes of the image at the model's size."""
        import cv2

        height, width = image.shape[:2]
        placed = self._placed
        if placed is None or (placed.image_height, placed.image_width) != (height, width):
            placed = self._placed = self.placement(height, width)
            self._canvas[:] = self.pad
        if (placed.width, placed.height) == (width, height):
            resized = image
        else:
            resized = cv2.resize(image, (placed.width, placed.height), interpolation=cv2.INTER_LINEAR)
        if (placed.height, placed.width) != (self.height, self.width):
            self._canvas[placed.top : placed.top + placed.height, placed.left : placed.left + placed.width] = resized
            resized = self._canvas
        planes: Sequence[ImageArray] = cv2.split(resized)
        return planes
