"""Images: files, video, and the npz of concatenated PNGs.

A damaged one is told to `passed_over`, which either refuses the whole (raises) or lets the rest be read.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from roadloop_agent.config import selected
from roadloop_agent.drive.frames import Item, Reported, refuse
from roadloop_models.data_files import read_arrays
from roadloop_models.errors import DataError
from roadloop_models.preprocess import ImageArray

_LOG = logging.getLogger(__name__)
# A damaged video makes FFmpeg say several lines a frame, and what it says of a stream may hold its password.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
_ERRORS_ONLY = 2
if hasattr(cv2, "setLogLevel"):
    cv2.setLogLevel(_ERRORS_ONLY)
else:  # OpenCV 5 has it elsewhere
    cv2.utils.logging.setLogLevel(_ERRORS_ONLY)
cv2.setNumThreads(1)  # images this small gain nothing from more, and the other cores have their own work
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp")


class Images:
    """One image file, or those of a folder in the order of their names. The number is the place in that order."""

    def __init__(self, path: Path, passed_over: Reported = refuse) -> None:
        """Raises DataError where there is no image."""
        if path.is_dir():
            self.paths = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in SUFFIXES)
            if not self.paths:
                raise DataError(f"{path}: has no images ({', '.join(SUFFIXES)})")
        elif path.is_file():
            self.paths = [path]
        else:
            raise DataError(f"{path}: no such image or folder")
        self._passed_over = passed_over

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Item]:
        for number, path in enumerate(self.paths):
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is None:
                self._passed_over(DataError(f"{path}: not an image that OpenCV reads, or truncated"))
                continue
            yield Item(number, str(path), to_rgb(image))


class Video:
    """A video file; the number is the frame's, among those that can be decoded."""

    def __init__(self, path: Path, passed_over: Reported | None = None) -> None:
        """Raises DataError where it cannot be opened. Without `passed_over`, missing frames are only logged."""
        if not path.exists():
            raise DataError(f"{path}: no such video")
        self.path = path
        self._passed_over = passed_over or (lambda error: _LOG.warning("%s", error))
        probe = self._open()
        self._length = max(0, int(probe.get(cv2.CAP_PROP_FRAME_COUNT)))
        probe.release()

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Item]:
        capture = self._open()
        try:
            number = 0
            while True:
                there_is_one, image = capture.read()
                if not there_is_one:
                    break
                t_source_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0
                yield Item(number, f"{self.path}#{number}", to_rgb(image), t_source_s)
                number += 1
        finally:
            capture.release()
        if number == 0:
            raise DataError(f"{self.path}: no frame can be decoded")
        # Some containers only estimate how many frames they have.
        if self._length - number > max(2, self._length // 50):
            self._passed_over(
                DataError(f"{self.path}: {number} of {self._length} frames can be decoded: it is truncated or damaged")
            )

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            raise DataError(f"{self.path}: not a video that OpenCV reads, or truncated")
        return capture


class NpzImages:
    """Rows of an npz with `png` (concatenated PNG files), `offset`, and where it splits by track `track`.

    The number of a frame is its row in the file.
    """

    def __init__(
        self,
        path: Path,
        first_row: int = 0,
        last_row: int | None = None,
        tracks: tuple[int, ...] | None = None,
        select: str | None = None,
        *,
        passed_over: Reported = refuse,
    ) -> None:
        """Raises DataError naming file and field."""
        self.path = path
        self._passed_over = passed_over
        arrays = read_arrays(path, {"png": "u", "offset": "iu"})
        self._png: npt.NDArray[np.uint8] = arrays["png"].astype(np.uint8, copy=False)
        self._offset = arrays["offset"].astype(np.int64)
        if self._offset.ndim != 1 or len(self._offset) < 2 or not _cuts(self._offset, len(self._png)):
            raise DataError(f"{path}: field 'offset' does not cut the {len(self._png)} bytes of 'png' into images")
        count = len(self._offset) - 1
        rows = np.arange(count)
        wanted = (rows >= first_row) & (rows <= (count - 1 if last_row is None else last_row))
        part, of = selected(select)
        with np.load(path, allow_pickle=False) as archive:
            has_tracks = "track" in archive.files
        track = read_arrays(path, {"track": "iu"})["track"].astype(np.int64) if has_tracks else rows
        if len(track) != count:
            raise DataError(f"{path}: field 'track' has {len(track)} rows for {count} images")
        if tracks is not None:
            wanted &= np.isin(track, np.array(tracks, dtype=np.int64))
        self.rows = rows[wanted & (track % of == part)]
        if not len(self.rows):
            raise DataError(f"{path}: none of its {count} rows is selected")

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Item]:
        for row in self.rows.tolist():
            image = cv2.imdecode(self._png[self._offset[row] : self._offset[row + 1]], cv2.IMREAD_COLOR)
            if image is None:
                self._passed_over(DataError(f"{self.path}: field 'png': row {row} is not an image"))
                continue
            yield Item(row, f"{self.path}#{row}", to_rgb(image))


def made_signs(count: int, seed: int) -> Iterator[Item]:
    """Drawn signs, another each time; the same for the same seed."""
    from roadloop_models.tasks import made_signs as drawn

    images = drawn.made_signs(1, 1, seed).images
    order = np.random.default_rng(seed)
    for number in range(count):
        yield Item(number, f"made#{number}", images[int(order.integers(len(images)))])


def made_traffic(count: int, seed: int) -> Iterator[Item]:
    """Frames of a drawn clip of traffic, the same for the same seed."""
    from roadloop_models.tasks.made_traffic import MadeClip

    for number, frame in enumerate(MadeClip(seed, count)):
        yield Item(number, f"made#{number}", frame.image)


def encode_png(image: ImageArray) -> bytes:
    """The PNG file of a uint8 RGB image."""
    done, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise DataError(f"an image of {list(image.shape)} cannot be encoded")
    return bytes(encoded)


def to_rgb(image: npt.NDArray[np.uint8]) -> ImageArray:
    """What OpenCV decodes (BGR) as everything else here takes it."""
    converted: ImageArray = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return converted


def turned(image: ImageArray, quarter_turns: int) -> ImageArray:
    """The image turned clockwise."""
    if quarter_turns == 0:
        return image
    turn = (cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_COUNTERCLOCKWISE)[quarter_turns - 1]
    rotated: ImageArray = cv2.rotate(image, turn)
    return rotated


def _cuts(offset: npt.NDArray[np.int64], size_bytes: int) -> bool:
    return bool(offset[0] == 0 and offset[-1] == size_bytes and (np.diff(offset) > 0).all())
