"""traffic-sign: from captured images and the labels that people gave to rows of training.

A track is one physical sign seen in consecutive frames: its rows are nearly the same picture and must not lie on both
sides of a split. The cloud does not know tracks; where the labels do not name them, all images of one class from one
vehicle count as one, which is coarser and therefore safe.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roadloop_cloud.datasets.snapshot import Content
from roadloop_models.errors import DataError
from roadloop_models.preprocess import ImageArray, ImageStandardize
from roadloop_models.tasks.sign_classes import SIGN_LABELS

_MAX_LABEL_BYTES = 64 * 1024 * 1024
_MAX_IMAGE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Captured:
    """A captured image whose content lies in `path`."""

    vehicle: str
    sha256: str
    media_type: str
    path: Path


@dataclass(frozen=True)
class Label:
    """What a person said: the class, and perhaps the track."""

    class_id: int
    track: str | None


def read_labels(path: Path) -> dict[str, Label]:
    """A CSV with the columns `sha256` and `label` (class id or name), and perhaps `track`.

    Raises DataError naming file, line and field.
    """
    try:
        if path.stat().st_size > _MAX_LABEL_BYTES:
            raise DataError(f"{path}: more than {_MAX_LABEL_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}") from error
    reader = csv.DictReader(io.StringIO(text))
    if not {"sha256", "label"} <= set(reader.fieldnames or ()):
        raise DataError(f"{path}: columns {reader.fieldnames}, expected sha256,label and perhaps track")
    labels: dict[str, Label] = {}
    for line in reader:
        where = f"{path}: line {reader.line_num}"
        sha256, label = (line["sha256"] or "").strip(), (line["label"] or "").strip()
        if len(sha256) != 64:
            raise DataError(f"{where}: field 'sha256' is {sha256!r}")
        found = Label(_class_id(label, where), (line.get("track") or "").strip() or None)
        if labels.setdefault(sha256, found) != found:
            raise DataError(f"{where}: {sha256[:12]}… has another label above")
    return labels


def assemble(
    captured: Sequence[Captured],
    labels: Mapping[str, Label],
    is_held_out: Callable[[ImageArray], bool],
    target: Path,
) -> Content:
    """Write the labelled images in the layout of gtsrb32's train.npz, each content once, in an order that is always
    the same. `is_held_out` is asked of each decoded image (uint8 RGB [32, 32, 3]).

    Raises DataError where none remains.
    """
    excluded: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    pngs: list[bytes] = []
    class_ids: list[int] = []
    tracks: list[str] = []
    seen: set[str] = set()
    for item in sorted(captured, key=lambda item: (item.vehicle, item.sha256)):
        label = labels.get(item.sha256)
        content = None if label is None or item.sha256 in seen else _read(item)
        image = None if content is None else _decode(content)
        if item.sha256 in seen:
            excluded["captured-twice"] += 1
        elif label is None:
            excluded["no-label"] += 1
        elif content is None or image is None:
            excluded["no-readable-image"] += 1
        elif is_held_out(image):
            excluded["held-out"] += 1
        else:
            seen.add(item.sha256)
            sources[item.vehicle] += 1
            pngs.append(content)
            class_ids.append(label.class_id)
            tracks.append(label.track or f"{item.vehicle}/{label.class_id}")
    if not pngs:
        raise DataError(
            f"of {len(captured)} captured images none can be trained on: {dict(excluded) or 'there are none'}"
        )
    numbers = {track: number for number, track in enumerate(sorted(set(tracks)))}
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        target,
        allow_pickle=False,
        png=np.frombuffer(b"".join(pngs), dtype=np.uint8),
        offset=np.cumsum([0, *(len(png) for png in pngs)], dtype=np.int64),
        label=np.asarray(class_ids, dtype=np.uint8),
        track=np.asarray([numbers[track] for track in tracks], dtype=np.int64),
    )
    return Content(rows=len(pngs), sources=dict(sorted(sources.items())), excluded=dict(sorted(excluded.items())))


def _class_id(label: str, where: str) -> int:
    if label.isdecimal() and int(label) < len(SIGN_LABELS):
        return int(label)
    if label in SIGN_LABELS:
        return SIGN_LABELS.index(label)
    raise DataError(f"{where}: field 'label' is {label!r}, expected a class id of 0 to 42 or its name")


def _read(item: Captured) -> bytes | None:
    try:
        if item.media_type != "image/png" or item.path.stat().st_size > _MAX_IMAGE_BYTES:
            return None
        return item.path.read_bytes()
    except OSError:
        return None


def _decode(content: bytes) -> ImageArray | None:
    import cv2

    decoded = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_COLOR)
    return None if decoded is None else ImageStandardize().resize(np.ascontiguousarray(decoded[:, :, ::-1]))
