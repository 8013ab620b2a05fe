"""What goes wrong with cameras and signals, as made changes of one item each. Images are uint8 RGB [h, w, 3]."""

from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from roadloop_models.preprocess import FlowWindow, ImageArray, SpeedWindow
from roadloop_models.tasks.base import Disturbance

FloatArray = npt.NDArray[np.float32]
WindowT = TypeVar("WindowT", FlowWindow, SpeedWindow)

NOISE_GREY_LEVELS = 12.0
BLUR_PIXELS = 1.0
"""Standard deviation of the blur; a sign of 32 pixels."""
DARK, BRIGHT = 0.35, 1.8
DROPPED_SHARE = 0.1
SPEED_NOISE = 0.05
"""Of the value itself, as standard deviation."""


def noise(image: ImageArray, generator: np.random.Generator) -> ImageArray:
    """A sensor at night: independent noise on every value."""
    return _grey(image + NOISE_GREY_LEVELS * generator.standard_normal(image.shape, dtype=np.float32))


def blur(image: ImageArray, _generator: np.random.Generator) -> ImageArray:
    """Out of focus."""
    import cv2

    blurred: ImageArray = cv2.GaussianBlur(image, (0, 0), BLUR_PIXELS)
    return blurred


def dark(image: ImageArray, _generator: np.random.Generator) -> ImageArray:
    """Exposed too short: a third of the light, in whole grey levels."""
    return _grey(DARK * image.astype(np.float32))


def bright(image: ImageArray, _generator: np.random.Generator) -> ImageArray:
    """Exposed too long: bright parts are lost."""
    return _grey(BRIGHT * image.astype(np.float32))


def dropped_sensors(window: SpeedWindow, generator: np.random.Generator) -> SpeedWindow:
    """A tenth of the sensors tell 0 through the whole window, as detectors do that fail."""
    dead = generator.random(window.speeds_mph.shape[1]) < DROPPED_SHARE
    return replace(window, speeds_mph=np.where(dead, np.float32(0.0), window.speeds_mph))


def noisy_speeds(window: SpeedWindow, generator: np.random.Generator) -> SpeedWindow:
    """Every speed off by some per cent."""
    return replace(window, speeds_mph=_noisy(window.speeds_mph, generator))


def dropped_counts(window: FlowWindow, generator: np.random.Generator) -> FlowWindow:
    """A tenth of the steps, drawn one by one, tell 0."""
    dead = generator.random(window.flow_veh.shape) < DROPPED_SHARE
    return replace(window, flow_veh=np.where(dead, np.float32(0.0), window.flow_veh))


def noisy_counts(window: FlowWindow, generator: np.random.Generator) -> FlowWindow:
    """Every count off by some per cent."""
    return replace(window, flow_veh=_noisy(window.flow_veh, generator))


def dropped_signal(values: FloatArray, generator: np.random.Generator) -> FloatArray:
    """OBD values [rows, signals]: one of the signals that are there, but the first (speed), is unknown throughout."""
    there = 1 + np.flatnonzero(np.isfinite(values[:, 1:]).any(axis=0))
    changed = values.copy()
    if len(there):
        changed[:, generator.choice(there)] = np.nan
    return changed


def dropped_rows(values: FloatArray, generator: np.random.Generator) -> FloatArray:
    """OBD values [rows, signals]: a tenth of all answers but the speed's did not come."""
    dropped = generator.random(values.shape) < DROPPED_SHARE
    dropped[:, 0] = False  # a forecast begins at the last speed
    return np.where(dropped, np.float32(np.nan), values)


IMAGES = tuple(Disturbance(change.__name__, change) for change in (noise, blur, dark, bright))
SPEEDS = (Disturbance("dropped-sensors", dropped_sensors), Disturbance("noise", noisy_speeds))
COUNTS = (Disturbance("dropped-steps", dropped_counts), Disturbance("noise", noisy_counts))
OBD = (Disturbance("dropped-signal", dropped_signal), Disturbance("dropped-answers", dropped_rows))


def _grey(values: npt.NDArray[np.floating[npt.NBitBase]]) -> ImageArray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _noisy(values: FloatArray, generator: np.random.Generator) -> FloatArray:
    noisy: FloatArray = values * (1.0 + SPEED_NOISE * generator.standard_normal(values.shape, dtype=np.float32))
    return noisy
