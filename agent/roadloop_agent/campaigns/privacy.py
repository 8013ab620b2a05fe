"""What happens to an image before it leaves: people and vehicles that an on-board detector finds are made unreadable.

It fails closed: where a detector is asked for and cannot be used, no image leaves.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from roadloop_agent.drive.handlers.object_detection import detect
from roadloop_agent.drive.pipeline import Model
from roadloop_models.bundle import Bundle
from roadloop_models.errors import ConfigError
from roadloop_models.preprocess import ImageArray

_MARGIN = 0.1
"""Of a box's size, added on each side: detectors cut off hands, hair and plates."""
_ALSO = {"motorcycle": "motorbike", "motorbike": "motorcycle"}
"""Both lists of COCO's labels are in use."""
_CELLS = 6
"""A box becomes so many cells at its longer side: of a face of any size a few means are left."""


def open_darkroom(
    detector: Path | None,
    labels: Sequence[str],
    encode: Callable[[ImageArray], bytes],
    open_model: Callable[[Path], Model] | None = None,
) -> Callable[[ImageArray], bytes]:
    """What makes the file of an image; `detector` is the folder of an object-detection bundle, None: images leave as
    they are. Several threads may call it. The detector is loaded with the first image.

    It raises RoadloopError where the detector cannot be loaded or fails on an image.
    """
    return encode if detector is None else Darkroom(detector, labels, encode, open_model or _first_variant)


class Darkroom:
    """See the module."""

    def __init__(
        self,
        detector: Path,
        labels: Sequence[str],
        encode: Callable[[ImageArray], bytes],
        open_model: Callable[[Path], Model],
    ) -> None:
        self._detector = detector
        self._labels = labels
        self._encode = encode
        self._open_model = open_model
        self._lock = threading.Lock()
        self._model: Model | None = None

    def __call__(self, image: ImageArray) -> bytes:
        """The file of a uint8 RGB image [height, width, 3]."""
        with self._lock:
            if self._model is None:
                self._model = self._open_model(self._detector)
            boxes = self._private(self._model, image)
        return self._encode(blurred(image, boxes))

    def _private(self, model: Model, image: ImageArray) -> list[Sequence[float]]:
        known: tuple[str, ...] = model.postprocess.labels
        wanted = set()
        for label in self._labels:
            named = label if label in known else _ALSO.get(label, label)
            if named not in known:
                raise ConfigError(f"privacy.labels: '{label}' is no label of {model.name}; it has {', '.join(known)}")
            wanted.add(known.index(named))
        found = detect(model, model.preprocess(image), *image.shape[:2]).of_classes(wanted)
        return list(found.boxes)


def blurred(image: ImageArray, boxes: Sequence[Sequence[float]]) -> ImageArray:
    """A copy in which each box (x1, y1, x2, y2 in pixels), a little enlarged, is reduced to the means of a few cells.

    Means cannot be undone, as a blur by convolution can.
    """
    import cv2

    height, width = image.shape[:2]
    clean = image.copy()
    for x1, y1, x2, y2 in boxes:
        dx, dy = _MARGIN * (x2 - x1), _MARGIN * (y2 - y1)
        left, right = max(0, int(x1 - dx)), min(width, int(np.ceil(x2 + dx)))
        top, bottom = max(0, int(y1 - dy)), min(height, int(np.ceil(y2 + dy)))
        if left >= right or top >= bottom:
            continue
        part = clean[top:bottom, left:right]
        longer = max(right - left, bottom - top)
        cells = max(1, round(_CELLS * (right - left) / longer)), max(1, round(_CELLS * (bottom - top) / longer))
        small = cv2.resize(part, cells, interpolation=cv2.INTER_AREA)
        clean[top:bottom, left:right] = cv2.resize(small, (right - left, bottom - top), interpolation=cv2.INTER_NEAREST)
    return clean


def _first_variant(directory: Path) -> Model:
    """The first variant that works here."""
    from roadloop_agent.infer import open_model

    if Bundle.open(directory).manifest.task != "object-detection":
        raise ConfigError(f"privacy.detector: {directory} is no bundle of the task object-detection")
    return open_model(directory, None, None)
