"""The user's own images: what quantization is calibrated with, and those held back to judge it by."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roadloop_models.errors import DataError
from roadloop_models.preprocess import ImageArray

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp")
MIN_IMAGES, MAX_IMAGES = 10, 100
HELD_BACK_SHARE = 0.2


@dataclass(frozen=True)
class CalibrationImages:
    """uint8 RGB images; none is in both lists."""

    fit: list[ImageArray]
    held_back: list[ImageArray]


def read_calibration(path: Path) -> CalibrationImages:
    """Up to 100 images of a folder or frames of a video, evenly spread; the last fifth is held back.

    Raises DataError where there are too few or one cannot be read.
    """
    images = _folder(path) if path.is_dir() else _video(path)
    if len(images) < MIN_IMAGES:
        raise DataError(f"{path}: {len(images)} images, calibration needs at least {MIN_IMAGES}")
    cut = len(images) - max(1, round(len(images) * HELD_BACK_SHARE))
    return CalibrationImages(images[:cut], images[cut:])


def _folder(path: Path) -> list[ImageArray]:
    import cv2

    paths = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in SUFFIXES)
    images = []
    for index in _spread(len(paths)):
        image = cv2.imread(str(paths[index]), cv2.IMREAD_COLOR)
        if image is None:
            raise DataError(f"{paths[index]}: not an image that OpenCV reads, or truncated")
        images.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    return images


def _video(path: Path) -> list[ImageArray]:
    import cv2

    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise DataError(f"{path}: neither a folder nor a video that OpenCV reads")
    # The header may claim another number of frames than there are: a first pass counts without converting.
    count = 0
    while capture.grab():
        count += 1
    capture.release()
    wanted = set(_spread(count))
    capture = cv2.VideoCapture(str(path))
    images = []
    for number in range(count):
        if capture.grab() and number in wanted:
            there_is_one, image = capture.retrieve()
            if there_is_one:
                images.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    capture.release()
    return images


def _spread(count: int) -> list[int]:
    picked: list[int] = np.linspace(0, count - 1, min(count, MAX_IMAGES)).astype(int).tolist()
    return picked
