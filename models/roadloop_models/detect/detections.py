"""What a detector found in one image."""

from collections.abc import Container, Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
ClassArray = npt.NDArray[np.int64]


class Detections(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Objects found, best score first.

    Plain numbers: they are few, and after a network has swept the caches each numpy call costs more than a loop.
    """

    boxes: Sequence[Sequence[float]]
    """x1, y1, x2, y2 of each in pixels of the original image, origin top left."""
    scores: Sequence[float]
    """0 to 1."""
    classes: Sequence[int]
    """Index of the label."""

    @classmethod
    def of_arrays(cls, boxes: FloatArray, scores: FloatArray, classes: ClassArray) -> "Detections":
        """float32 [n, 4], float32 [n] and int64 [n] as plain numbers."""
        return cls(boxes.tolist(), scores.tolist(), classes.tolist())

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def corners(self) -> FloatArray:
        """float32 [n, 4]: the boxes, for arithmetic with all of them at once."""
        return np.array(self.boxes, dtype=np.float32).reshape(-1, 4)

    def take(self, places: Iterable[int]) -> "Detections":
        """Those at these places, in that order."""
        rows = [(self.boxes[place], self.scores[place], self.classes[place]) for place in places]
        return Detections(*zip(*rows, strict=True)) if rows else NOTHING

    def of_classes(self, wanted: Container[int]) -> "Detections":
        """Only those of the wanted classes."""
        return self.take(place for place, index in enumerate(self.classes) if index in wanted)


NOTHING = Detections((), (), ())
"""An image without objects."""
