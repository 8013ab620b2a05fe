"""From what a sensor gives to what a model takes. Training and driving call the same functions.

A manifest names the function and its parameters (`Preprocess`); an unknown name or parameter is refused, because
guessing would feed a model numbers that it was not trained on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from roadloop_models.bundle.manifest import Manifest, Preprocess
from roadloop_models.counting.foreground import ForegroundPair
from roadloop_models.detect.letterbox import ImageLetterbox
from roadloop_models.drive_state.window import ObdWindow
from roadloop_models.errors import BundleError, ModelInputError
from roadloop_models.localization.trace import SpeedTracePreprocess

FloatArray = npt.NDArray[np.float32]
ImageArray = npt.NDArray[np.uint8]
Preprocessor = Callable[[Any], tuple[FloatArray, ...]]


class Named(Protocol):
    """A preprocessor that manifests name."""

    name: str


NamedT = TypeVar("NamedT", bound=Named)
OtherT = TypeVar("OtherT", bound=Named)

STEPS_PER_DAY = 288
"""Five-minute steps; step 0 of a record is 00:00."""


@dataclass(frozen=True)
class SpeedWindow:
    """The latest speeds before a forecast: float32 [window, sensors], mph, oldest first."""

    speeds_mph: FloatArray
    step: int
    """Absolute index of the first step to forecast, the one after the last row."""


@dataclass(frozen=True)
class FlowWindow:
    """The latest counts of a road detector before a forecast: float32 [window], vehicles per step, oldest first."""

    flow_veh: FloatArray
    step: int
    """Absolute index of the step to forecast, the one after the last count."""


class ImageStandardize:
    """`image-standardize`: uint8 RGB [h, w, 3] -> float32 [1, height, width, 3].

    Each image is shifted to mean 0 and scaled to deviation 1 over all its values, then clipped to +-`clip`. A flat
    image (deviation below one grey level) is divided by 1 instead, so that its noise is not blown up.
    """

    name = "image-standardize"

    def __init__(self, height: int = 32, width: int = 32, clip: float = 3.0) -> None:
        self._shape = (height, width, 3)
        self._clip = np.float32(clip)
        # A dot product with this is a sum several times faster than ndarray.sum, and exact below 2^24.
        self._mean_of = np.full(height * width * 3, 1.0, dtype=np.float32)

    @property
    def spec(self) -> Preprocess:
        """What a manifest says to get this very function."""
        height, width, _ = self._shape
        return Preprocess(self.name, {"height": height, "width": width, "clip": float(self._clip)})

    def resize(self, image: ImageArray) -> ImageArray:
        """Any RGB image at the model's size (bilinear, as the training data was made). Raises ModelInputError."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise ModelInputError(f"image is {image.dtype} {list(image.shape)}, expected uint8 RGB [height, width, 3]")
        if image.shape == self._shape:
            return image
        import cv2

        height, width, _ = self._shape
        resized: ImageArray = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        return resized

    def __call__(self, image: ImageArray) -> tuple[FloatArray]:
        if image.shape != self._shape or image.dtype != np.uint8:
            image = self.resize(image)
        flat = image.astype(np.float32).reshape(-1)
        flat -= flat.dot(self._mean_of) / np.float32(flat.size)
        deviation = np.sqrt(flat.dot(flat) / np.float32(flat.size))
        flat *= np.float32(1.0) / max(deviation, np.float32(1.0))
        np.minimum(flat, self._clip, out=flat)
        np.maximum(flat, -self._clip, out=flat)
        return (flat.reshape(1, *self._shape),)


class SpeedScale:
    """`speed-scale`: a `SpeedWindow` -> (speeds / `scale_mph` float32 [1, window, sensors], time of day [1, 4]).

    With a `clock` of 0 the speeds alone (manifests have numbers, no truth values).
    """

    name = "speed-scale"

    def __init__(self, window: int = 12, sensors: int = 207, scale_mph: float = 70.0, clock: int = 1) -> None:
        self._shape = (window, sensors)
        self._scale_mph = np.float32(scale_mph)
        self._clock = bool(clock)

    @property
    def spec(self) -> Preprocess:
        """What a manifest says to get this very function."""
        window, sensors = self._shape
        params: dict[str, float | int | str | list[float]] = {
            "window": window,
            "sensors": sensors,
            "scale_mph": float(self._scale_mph),
        }
        return Preprocess(self.name, params if self._clock else params | {"clock": 0})

    @property
    def scale_mph(self) -> float:
        """What speeds are divided by; the model's outputs are multiplied by it."""
        return float(self._scale_mph)

    def __call__(self, item: SpeedWindow) -> tuple[FloatArray, ...]:
        speeds = item.speeds_mph
        if speeds.shape != self._shape or speeds.dtype != np.float32:
            raise ModelInputError(
                f"window of speeds is {speeds.dtype} {list(speeds.shape)}, expected float32 {list(self._shape)}"
            )
        scaled = (speeds / self._scale_mph)[np.newaxis]
        return (scaled, time_of_day(np.array([item.step]))) if self._clock else (scaled,)


class FlowScale:
    """`flow-scale`: a `FlowWindow` -> (counts / `scale_veh` float32 [1, window], time of day [1, 4])."""

    name = "flow-scale"

    def __init__(self, window: int = 12, scale_veh: float = 200.0) -> None:
        self._shape = (window,)
        self._scale_veh = np.float32(scale_veh)

    @property
    def spec(self) -> Preprocess:
        """What a manifest says to get this very function."""
        return Preprocess(self.name, {"window": self._shape[0], "scale_veh": float(self._scale_veh)})

    @property
    def scale_veh(self) -> float:
        """What counts are divided by; the model's output is multiplied by it."""
        return float(self._scale_veh)

    def __call__(self, item: FlowWindow) -> tuple[FloatArray, FloatArray]:
        flow = item.flow_veh
        if flow.shape != self._shape or flow.dtype != np.float32:
            raise ModelInputError(
                f"window of counts is {flow.dtype} {list(flow.shape)}, expected float32 {list(self._shape)}"
            )
        return (flow / self._scale_veh)[np.newaxis], time_of_day(np.array([item.step]))


def time_of_day(steps: npt.NDArray[np.integer[Any]]) -> FloatArray:
    """Sine and cosine of the day's and of the half day's phase: absolute steps [n] -> float32 [n, 4]."""
    phase = 2.0 * np.pi * (steps % STEPS_PER_DAY) / STEPS_PER_DAY
    columns = (np.sin(phase), np.cos(phase), np.sin(2 * phase), np.cos(2 * phase))
    return np.stack(columns, axis=-1).astype(np.float32)


PREPROCESSORS: dict[str, Callable[..., Preprocessor]] = {
    FlowScale.name: FlowScale,
    ForegroundPair.name: ForegroundPair,
    ImageStandardize.name: ImageStandardize,
    ImageLetterbox.name: ImageLetterbox,
    ObdWindow.name: ObdWindow,
    SpeedScale.name: SpeedScale,
    SpeedTracePreprocess.name: SpeedTracePreprocess,
}
"""What a manifest may name."""


def build_preprocess(spec: Preprocess) -> Preprocessor:
    """The function that a manifest names. Raises BundleError for a name or parameter that this version lacks."""
    if spec.name not in PREPROCESSORS:
        raise BundleError(
            f"manifest.json: preprocess: no function '{spec.name}'; this version has {', '.join(PREPROCESSORS)}"
        )
    try:
        return PREPROCESSORS[spec.name](**spec.params)
    except (TypeError, ValueError) as error:
        raise BundleError(f"manifest.json: preprocess: params: {error}") from error


def preprocess_of(manifest: Manifest, kind: type[NamedT], *others: type[OtherT]) -> NamedT | OtherT:
    """The function that a manifest names, which is one of these kinds. Raises BundleError where it is not."""
    kinds: tuple[type[NamedT] | type[OtherT], ...] = (kind, *others)
    preprocess = build_preprocess(manifest.preprocess)
    for one in kinds:
        if isinstance(preprocess, one):
            return preprocess
    raise BundleError(
        f"manifest of {manifest.task} {manifest.version}: preprocess is '{manifest.preprocess.name}', "
        f"expected {' or '.join(repr(one.name) for one in kinds)}"
    )
