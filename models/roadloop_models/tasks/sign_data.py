"""Rows of traffic signs: the layout of gtsrb32 (an npz of concatenated PNGs), read, split and written."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from roadloop_models.data_files import array_names, read_arrays
from roadloop_models.errors import DataError
from roadloop_models.preprocess import ImageArray, ImageStandardize
from roadloop_models.tasks.base import Part
from roadloop_models.tasks.sign_classes import SIGN_LABELS

FOLDER = "gtsrb32"
TRAIN_FILE = "train.npz"
TEST_FILE = "test_a.npz"
STARTER_SHARE = 8
"""The starter part has every eighth track of each class, and at least one."""


@dataclass(frozen=True)
class SignRows:
    """Labelled images: uint8 RGB [n, 32, 32, 3], class ids int64 [n], track ids int64 [n].

    A track is one physical sign seen in consecutive frames: rows of one track are nearly the same picture, so they
    are split by track and never by row. Here a track id belongs to one class only, whatever the file says.
    """

    images: ImageArray
    labels: npt.NDArray[np.int64]
    tracks: npt.NDArray[np.int64]
    tracks_known: bool = True
    """Whether the file told them; else every row is a track of its own, which need not be true."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, mask: npt.NDArray[np.bool_]) -> "SignRows":
        """The rows where `mask` is true."""
        return SignRows(self.images[mask], self.labels[mask], self.tracks[mask], self.tracks_known)


def load_signs(path: Path, with_tracks: bool) -> SignRows:
    """Read one npz of signs; without tracks every row is its own. Raises DataError naming file and field.

    Images of another size are resized as the vehicle resizes them.
    """
    dtypes = {"png": "u", "offset": "iu", "label": "iu"} | ({"track": "iu"} if with_tracks else {})
    arrays = read_arrays(path, dtypes)
    blob = arrays["png"]
    offset, label = (arrays[field].astype(np.int64) for field in ("offset", "label"))
    track = arrays["track"].astype(np.int64) if with_tracks else np.arange(len(label))
    if blob.dtype != np.uint8 or blob.ndim != 1:
        raise DataError(f"{path}: field 'png' is {blob.dtype} {list(blob.shape)}, expected uint8 [bytes]")
    if offset.ndim != 1 or len(offset) < 2 or offset[0] != 0 or offset[-1] != len(blob) or (np.diff(offset) <= 0).any():
        raise DataError(f"{path}: field 'offset' does not cut the {len(blob)} bytes of 'png' into images")
    for field, array in (("label", label), ("track", track)):
        if array.shape != (len(offset) - 1,):
            raise DataError(f"{path}: field '{field}' has shape {list(array.shape)} for {len(offset) - 1} images")
    if label.min() < 0 or label.max() >= len(SIGN_LABELS):
        raise DataError(f"{path}: field 'label' has {label.min()} to {label.max()}, expected 0 to 42")
    # GTSRB numbers the tracks of each class from 0.
    _, unique_track = np.unique(np.stack([label, track]), axis=1, return_inverse=True)
    return SignRows(_decode(path, blob, offset), label, unique_track.reshape(-1).astype(np.int64), with_tracks)


def load_training_signs(data_dir: Path, part: Part) -> SignRows:
    """One part of the training rows of a data folder. Raises DataError naming file and field."""
    rows = load_signs(data_dir / FOLDER / TRAIN_FILE, with_tracks=True)
    if part in ("all", "snapshot"):
        return rows
    starter = _in_starter(rows)
    return rows.take(starter if part == "starter" else ~starter)


def load_test_signs(data_dir: Path) -> SignRows:
    """The test rows of a data folder, with tracks where the file tells them. Raises DataError naming file and field."""
    path = data_dir / FOLDER / TEST_FILE
    return load_signs(path, with_tracks="track" in array_names(path))


def write_signs(path: Path, rows: SignRows, with_tracks: bool = True) -> None:
    """Write rows in the layout that `load_signs` reads (lossless PNGs)."""
    import cv2

    pngs = [cv2.imencode(".png", image[:, :, ::-1])[1] for image in rows.images]
    arrays = {
        "png": np.concatenate(pngs),
        "offset": np.cumsum([0, *(len(png) for png in pngs)], dtype=np.int64),
        "label": rows.labels.astype(np.uint8),
        ("track" if with_tracks else "index"): rows.tracks.astype(np.int64),
    }
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())


def split_by_track(rows: SignRows, share: float, seed: int) -> tuple[SignRows, SignRows]:
    """(rows to fit, rows to validate): about `share` of each class's tracks are held out.

    A class seen in one track only stays in what is fitted.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    held_out = np.zeros(len(rows), dtype=bool)
    for class_id in np.unique(rows.labels):
        tracks = np.unique(rows.tracks[rows.labels == class_id])
        count = min(max(1, round(share * len(tracks))), len(tracks) - 1)
        held_out |= np.isin(rows.tracks, generator.permutation(tracks)[:count])
    return rows.take(~held_out), rows.take(held_out)


def _in_starter(rows: SignRows) -> npt.NDArray[np.bool_]:
    chosen: list[np.int64] = []
    for class_id in np.unique(rows.labels):
        chosen.extend(np.unique(rows.tracks[rows.labels == class_id])[::STARTER_SHARE])
    return np.isin(rows.tracks, chosen)


def _decode(path: Path, blob: npt.NDArray[np.generic], offset: npt.NDArray[np.int64]) -> ImageArray:
    import cv2

    preprocess = ImageStandardize()
    images = np.empty((len(offset) - 1, 32, 32, 3), dtype=np.uint8)
    for index in range(len(images)):
        decoded = cv2.imdecode(blob[offset[index] : offset[index + 1]], cv2.IMREAD_COLOR)
        if decoded is None:
            raise DataError(f"{path}: field 'png': image {index} is truncated or no PNG")
        images[index] = preprocess.resize(np.ascontiguousarray(decoded[:, :, ::-1]))
    return images
