"""What a detector found in one image."""

import msgspec
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
ClassArray = npt.NDArray[np.int64]


class Detections(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Objects found, best score first. A plain struct: several are made for every frame."""

    boxes: FloatArray
    """float32 [n, 4]: x1, y1, x2, y2 in pixels of the original image, origin top left."""
    scores: FloatArray
    """float32 [n], 0 to 1."""
    classes: ClassArray
    """int64 [n]: index of the label."""

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def centres(self) -> FloatArray:
        """float32 [n, 2]: x, y of the middle of each box."""
        centres: FloatArray = (self.boxes[:, :2] + self.boxes[:, 2:]) * np.float32(0.5)
        return centres


NOTHING = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))
"""An image without objects."""
