"""Clips with counted crossings: video/NAME.truth.csv beside video/NAME.mp4 (any container), or NAME.npz of PNGs."""

import io
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roadloop_models.data_files import WAY_OUT, check_readable, read_arrays
from roadloop_models.errors import DataError
from roadloop_models.preprocess import ImageArray

FOLDER, TRUTH_SUFFIX = "video", ".truth.csv"
DIRECTIONS = ("up", "down", "left", "right")
_HEADER = ("vehicle", "frame", "direction")


@dataclass(frozen=True)
class TrueCrossing:
    """What a person (or the drawing code) saw: the frame in which a vehicle's middle passes the middle line."""

    frame: int
    direction: str


@dataclass(frozen=True)
class CountedClip:
    """One clip and its crossings of the line from (0, 0.5) to (1, 0.5)."""

    path: Path
    crossings: tuple[TrueCrossing, ...]

    def frames(self) -> Iterator[ImageArray]:
        """uint8 RGB [h, w, 3], in order. Raises DataError where the clip cannot be read."""
        return _png_frames(self.path) if self.path.suffix == ".npz" else _video_frames(self.path)


def load_clips(data_dir: Path) -> list[CountedClip]:
    """Every counted clip below `data_dir`/video, by name. Raises DataError naming file and field."""
    folder = data_dir / FOLDER
    tables = sorted(folder.glob(f"*{TRUTH_SUFFIX}"))
    if not tables:
        raise DataError(f"{folder}: has no *{TRUTH_SUFFIX}; {WAY_OUT}")
    return [CountedClip(_clip_of(path), _read_truth(path)) for path in tables]


def write_clip(directory: Path, name: str, frames: Iterable[ImageArray], crossings: Iterable[TrueCrossing]) -> None:
    """Write frames losslessly, with their truth, in the layout that `load_clips` reads."""
    import cv2

    pngs = [cv2.imencode(".png", frame[:, :, ::-1])[1] for frame in frames]
    buffer = io.BytesIO()
    offset = np.cumsum([0, *(len(png) for png in pngs)], dtype=np.int64)
    np.savez(buffer, allow_pickle=False, png=np.concatenate(pngs), offset=offset)
    (directory / FOLDER).mkdir(parents=True, exist_ok=True)
    (directory / FOLDER / f"{name}.npz").write_bytes(buffer.getvalue())
    rows = [f"{number},{row.frame},{row.direction}" for number, row in enumerate(crossings, 1)]
    (directory / FOLDER / f"{name}{TRUTH_SUFFIX}").write_text("\n".join([",".join(_HEADER), *rows, ""]))


def _clip_of(truth: Path) -> Path:
    name = truth.name.removesuffix(TRUTH_SUFFIX)
    beside = [path for path in sorted(truth.parent.glob(f"{name}.*")) if path != truth]
    if len(beside) != 1:
        raise DataError(f"{truth}: {len(beside)} clips named '{name}' lie beside it, expected one")
    return beside[0]


def _read_truth(path: Path) -> tuple[TrueCrossing, ...]:
    """Columns vehicle, frame, direction and any others, below lines of # comment."""
    check_readable(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not text: {error}") from error
    rows = [[cell.strip() for cell in line.split(",")] for line in lines if line.strip() and not line.startswith("#")]
    if not rows or tuple(rows[0][:3]) != _HEADER:
        raise DataError(f"{path}: expected columns {', '.join(_HEADER)} first")
    crossings = []
    for number, row in enumerate(rows[1:], 1):
        if len(row) < 3 or not row[1].isdecimal() or row[2] not in DIRECTIONS:
            raise DataError(f"{path}: data row {number}: expected a frame number and one of {', '.join(DIRECTIONS)}")
        crossings.append(TrueCrossing(int(row[1]), row[2]))
    return tuple(crossings)


def _video_frames(path: Path) -> Iterator[ImageArray]:
    import cv2

    check_readable(path)
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise DataError(f"{path}: not a video that OpenCV reads")
        while True:
            there_is_one, image = capture.read()
            if not there_is_one:
                return
            yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()


def _png_frames(path: Path) -> Iterator[ImageArray]:
    import cv2

    arrays = read_arrays(path, {"png": "u", "offset": "iu"})
    png, offset = arrays["png"].astype(np.uint8, copy=False), arrays["offset"].astype(np.int64)
    for index, (start, stop) in enumerate(itertools.pairwise(offset.tolist())):
        image = cv2.imdecode(png[start:stop], cv2.IMREAD_COLOR) if stop > start else None
        if image is None:
            raise DataError(f"{path}: field 'png': image {index} is truncated or no PNG")
        yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
