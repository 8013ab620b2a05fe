"""A clip that shows what a detector found, to be looked at by a person."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import cv2

from roadloop_models.detect import Detections
from roadloop_models.errors import DataError
from roadloop_models.preprocess import ImageArray

STILLS_PER_S = 5.0
"""Pace of the clip where the input is no video."""
_COLOURS = ((66, 135, 245), (245, 173, 66), (98, 209, 96), (222, 87, 160), (240, 230, 80), (120, 220, 230))
_CODEC = "mp4v"


class Clip:
    """A video that grows frame by frame; all frames have the size of the first."""

    def __init__(self, path: Path, frames_per_s: float) -> None:
        self._path = path
        self._frames_per_s = frames_per_s
        self._writer: cv2.VideoWriter | None = None
        self._size: tuple[int, ...] = ()

    def add(self, image: ImageArray, found: Detections, labels: tuple[str, ...]) -> None:
        """Append a uint8 RGB image with its boxes. Raises DataError where the clip cannot be written."""
        if self._writer is None:
            self._size = image.shape
            height, width = image.shape[:2]
            code = cv2.VideoWriter.fourcc(*_CODEC)
            self._writer = cv2.VideoWriter(str(self._path), code, self._frames_per_s, (width, height))
            if not self._writer.isOpened():
                raise DataError(f"{self._path}: OpenCV cannot write a video there")
        if image.shape != self._size:
            raise DataError(
                f"{self._path}: an annotated clip needs images of one size; {image.shape} after {self._size}"
            )
        self._writer.write(cv2.cvtColor(draw(image, found, labels), cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()


@contextlib.contextmanager
def open_clip(path: Path, source: Path) -> Iterator[Clip]:
    """A clip as fast as the video `source`; it appears at `path` (.mp4) when it is complete. Raises DataError."""
    if path.suffix.lower() != ".mp4":
        raise DataError(f"{path}: an annotated clip is an .mp4")
    if not path.parent.is_dir():
        raise DataError(f"{path}: there is no folder {path.parent}")
    unfinished = path.with_name(f".unfinished-{path.name}")
    clip = Clip(unfinished, _frames_per_s(source))
    try:
        try:
            yield clip
        finally:
            clip.close()
        if unfinished.exists():
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def draw(image: ImageArray, found: Detections, labels: tuple[str, ...]) -> ImageArray:
    """A copy of the image with boxes, labels and scores."""
    drawn = image.copy()
    for box, score, index in zip(found.boxes, found.scores, found.classes, strict=True):
        left, top, right, bottom = map(round, box)
        colour = _COLOURS[index % len(_COLOURS)]
        cv2.rectangle(drawn, (left, top), (right, bottom), colour, 2)
        text = f"{labels[index]} {score:.2f}"
        cv2.putText(drawn, text, (left, max(12, top - 4)), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)
    return drawn


def _frames_per_s(source: Path) -> float:
    if source.is_dir():
        return STILLS_PER_S
    capture = cv2.VideoCapture(str(source))
    frames_per_s = float(capture.get(cv2.CAP_PROP_FPS))
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    capture.release()
    return frames_per_s if count > 1 and 0 < frames_per_s <= 240 else STILLS_PER_S
