"""What the foreground network answers: heat and edges on a grid, to and from boxes."""

import math

import numpy as np
import numpy.typing as npt

from roadloop_models.counting.foreground import ForegroundPair
from roadloop_models.detect.detections import NOTHING, Detections, FloatArray
from roadloop_models.detect.nms import iou, suppress
from roadloop_models.errors import FailedError

STRIDE = 4
"""Pixels of the picture for one cell of the grid."""
LABELS = ("vehicle",)
MIN_HEAT = 0.35
MAX_IOU = 0.4
_SAME_IOU = 0.6
"""Cells whose boxes overlap by as much speak of the same vehicle."""


class HeatBoxes:
    """float32 [1, rows, columns, 5], all 0 to 1, of a frame of height x width -> `Detections` in pixels of that frame.

    A vehicle is where the heat (channel 0) is highest among its neighbours and at least `min_heat`. Channels 1 to 4
    give the distance of the left, upper, right and lower edge from the middle of that cell, as a share s of the
    picture's width: distance = s^2 * width (squared, so that 8 bits are finer for small vehicles).
    """

    labels = LABELS

    def __init__(self, pair: ForegroundPair, min_heat: float = MIN_HEAT, max_iou: float = MAX_IOU) -> None:
        self._pair = pair
        self._min_heat, self._max_iou = np.float32(min_heat), max_iou

    @staticmethod
    def output_shape(pair: ForegroundPair) -> tuple[int, int, int, int]:
        """What the network answers to the pictures of `pair`."""
        _, height, width, _ = pair.input_shape
        return (1, height // STRIDE, width // STRIDE, 5)

    def __call__(self, outputs: tuple[FloatArray, ...], height: int, width: int) -> Detections:
        """Raises FailedError where the model answers with what is not finite."""
        grid = outputs[0][0]
        heat = grid[:, :, 0]
        if not math.isfinite(grid.sum()):
            raise FailedError("the model answers with values that are not finite")
        rows, columns = np.nonzero(heat >= self._min_heat)
        if not len(rows):
            return NOTHING
        heats = heat[rows, columns]
        reach = grid[rows, columns, 1:] ** 2 * np.float32(grid.shape[1] * STRIDE)
        middles = (np.stack([columns, rows], axis=1) + 0.5) * STRIDE
        boxes = np.concatenate([middles - reach[:, :2], middles + reach[:, 2:]], axis=1).astype(np.float32)
        peaks = np.nonzero(heats >= _neighbours(heat)[rows, columns])[0]
        found = Detections.of_arrays(_agreed(boxes, heats, peaks), heats[peaks], np.zeros(len(peaks), np.int64))
        return self._pair.placement(height, width).to_image(suppress(found, self._max_iou))


def _agreed(boxes: FloatArray, heats: FloatArray, peaks: npt.NDArray[np.intp]) -> FloatArray:
    """The boxes of the peaks, each the mean of what the cells around say of the same vehicle, weighted by heat."""
    weights = np.where(iou(boxes[peaks], boxes) >= _SAME_IOU, heats**2, np.float32(0.0))
    agreed: FloatArray = weights @ boxes / weights.sum(axis=1, keepdims=True)
    return agreed


def _neighbours(heat: FloatArray) -> FloatArray:
    """The largest of the up to eight cells around each: float32 [rows, columns]."""
    padded = np.pad(heat, 1, constant_values=-1.0)
    across = np.maximum(np.maximum(padded[:, :-2], padded[:, 2:]), padded[:, 1:-1])
    around: FloatArray = np.maximum(np.maximum(across[:-2], across[2:]), across[1:-1])
    return around


def heat_targets(boxes: npt.NDArray[np.float64], rows: int, columns: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Boxes float [n, 4] in pixels of the picture -> what the network should answer.

    Heat [rows, columns] falls off from 1 in the middle of a box like a Gaussian of a sixth of its sides; edges
    [rows, columns, 4] are those of the box whose heat is highest there; their weight [rows, columns] is that heat
    where it is at least a third, else 0.
    """
    heat = np.zeros((rows, columns), np.float32)
    edges = np.zeros((rows, columns, 4), np.float32)
    y, x = np.mgrid[:rows, :columns]
    x, y = (x + 0.5) * STRIDE, (y + 0.5) * STRIDE
    for x1, y1, x2, y2 in boxes:
        across, down = max((x2 - x1) / 6.0, 0.5 * STRIDE), max((y2 - y1) / 6.0, 0.5 * STRIDE)
        # The peak is moved to the middle of its cell, where it is exactly 1.
        peak_x = (min(int((x1 + x2) / 2 / STRIDE), columns - 1) + 0.5) * STRIDE
        peak_y = (min(int((y1 + y2) / 2 / STRIDE), rows - 1) + 0.5) * STRIDE
        near = np.exp(-0.5 * (((x - peak_x) / across) ** 2 + ((y - peak_y) / down) ** 2)).astype(np.float32)
        reach = np.stack([x - x1, y - y1, x2 - x, y2 - y], axis=2)
        shares = np.sqrt(np.clip(reach / (columns * STRIDE), 0.0, 1.0)).astype(np.float32)
        closer = near > heat
        edges[closer] = shares[closer]
        np.maximum(heat, near, out=heat)
    return heat, edges, np.where(heat >= 1 / 3, heat, np.float32(0.0))
