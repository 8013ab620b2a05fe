"""What the output tensors of known detectors mean: to boxes in pixels of the model's input, before suppression.

Only cells whose best possible score reaches the threshold are looked at any further, so that decoding costs
microseconds beside a network of milliseconds. Each class is one layout; a manifest names it and gives its parameters.
"""

from collections.abc import Sequence
from math import nan
from typing import Protocol

import numpy as np

from roadloop_models.bundle.manifest import Postprocess
from roadloop_models.detect.detections import NOTHING, ClassArray, Detections, FloatArray
from roadloop_models.errors import BundleError

Shapes = Sequence[tuple[int, ...]]
Params = dict[str, float | int | str | list[float]]
UNITS = ("pixels", "normalized")


class Decoder(Protocol):
    """One output layout, for a model input of a given height and width."""

    def misfit(self, shapes: Shapes, classes: int) -> str | None:
        """What is wrong with output shapes for that many classes; None where they fit."""

    def __call__(self, outputs: tuple[FloatArray, ...]) -> Detections:
        """Candidates in pixels of the model's input: all that reach `min_score`, and some that do not.

        A score that is not a number comes along: suppression refuses it.
        """


class FastestDet:
    """`fastestdet`: [1, 5 + classes, h, w]: objectness, x, y, w, h, class probabilities of each cell.

    score = objectness^0.6 * class^0.4; centre = (cell + tanh) / cells, size = sigmoid, as shares of the input.
    Formulas: handle_preds in the project's utils/tool.py.
    """

    def __init__(self, height: int, width: int, *, min_score: float) -> None:
        self._height, self._width = height, width
        self._min_objectness = np.float32(min_score ** (1 / 0.6))
        # sigmoid(x) = (1 + tanh(x / 2)) / 2: one tanh is for all four, and unlike exp it does not overflow
        self._inner = np.array([[1.0], [1.0], [0.5], [0.5]], dtype=np.float32)
        self._shape = (0, 0)

    def misfit(self, shapes: Shapes, classes: int) -> str | None:
        if len(shapes) == 1 and len(shapes[0]) == 4 and shapes[0][:2] == (1, 5 + classes):
            return None
        return f"one output [1, {5 + classes}, rows, columns]"

    def __call__(self, outputs: tuple[FloatArray, ...]) -> Detections:
        _, values, rows, columns = outputs[0].shape
        if self._shape != (rows, columns):
            self._place(rows, columns)
        cells = outputs[0].reshape(values, -1)
        chosen = _above(cells[0], self._min_objectness)
        if not len(chosen):
            return NOTHING
        picked = cells.take(chosen, axis=1)
        classes = picked[5:].argmax(axis=0).tolist()
        places = picked[1:5]
        places *= self._inner
        np.tanh(places, out=places)
        places *= self._scale
        places += self._origin.take(chosen, axis=1)
        boxes = [(x - half_w, y - half_h, x + half_w, y + half_h) for x, y, half_w, half_h in places.T.tolist()]
        scores = []
        for number, (objectness, index) in enumerate(zip(picked[0].tolist(), classes, strict=True)):
            best = picked.item(5 + index, number)
            # objectness^0.6 * class^0.4 with one power; below zero there is none, and suppression refuses NaN
            scores.append((objectness * objectness * objectness * best * best) ** 0.2 if best >= 0 else nan)
        return Detections(boxes, scores, classes)

    def _place(self, rows: int, columns: int) -> None:
        """Where the cells of a grid lie: tanh * scale + origin is centre and half size, in pixels of the input."""
        self._shape = rows, columns
        across, down = self._width / columns, self._height / rows
        quarter_width, quarter_height = self._width / 4, self._height / 4
        self._scale = np.array([[across], [down], [quarter_width], [quarter_height]], dtype=np.float32)
        row, column = np.divmod(np.arange(rows * columns), columns)
        halves = np.ones_like(row)
        origin = np.stack((column * across, row * down, halves * quarter_width, halves * quarter_height))
        self._origin = origin.astype(np.float32)


class Yolox:
    """`yolox`: [1, cells, 5 + classes] of all strides one after the other, not decoded.

    centre = (cell + xy) * stride, size = exp(wh) * stride, score = objectness * class.
    """

    def __init__(self, height: int, width: int, *, min_score: float, strides: list[float] | None = None) -> None:
        self._min_score = np.float32(min_score)
        origins, self._steps = yolo_cells(height, width, strides or [8, 16, 32])
        self._origins = np.ascontiguousarray(origins.T)

    def misfit(self, shapes: Shapes, classes: int) -> str | None:
        wanted = (1, len(self._steps), 5 + classes)
        return None if list(shapes) == [wanted] else f"one output {list(wanted)}"

    def __call__(self, outputs: tuple[FloatArray, ...]) -> Detections:
        cells = outputs[0][0]
        chosen = _above(cells[:, 4], self._min_score)
        if not len(chosen):
            return NOTHING
        picked = cells[chosen]
        classes, best = _best(picked[:, 5:])
        places = picked[:, :4].T.copy()
        places[:2] += self._origins.take(chosen, axis=1)
        np.exp(places[2:], out=places[2:])
        places[2:] *= np.float32(0.5)
        places *= self._steps.take(chosen)
        return Detections.of_arrays(_corners(places), picked[:, 4] * best, classes)


class Yolo:
    """`yolo`: decoded centre boxes of the YOLO family: x, y, w, h, perhaps objectness, and class scores.

    `layout` "rows" is [1, cells, values] (YOLOv5, decoded YOLOX), "columns" [1, values, cells] (YOLOv8 and later).
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        min_score: float,
        layout: str = "rows",
        objectness: int = 1,
        unit: str = "pixels",
    ) -> None:
        if layout not in ("rows", "columns"):
            raise ValueError(f"layout is {layout!r}, known are rows, columns")
        self._min_score = np.float32(min_score)
        self._rows, self._objectness = layout == "rows", bool(objectness)
        self._unit = _unit(unit, height, width)

    def misfit(self, shapes: Shapes, classes: int) -> str | None:
        values = 4 + self._objectness + classes
        fits = len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][0] == 1
        if fits and shapes[0][2 if self._rows else 1] == values:
            return None
        return f"one output [1, {f'cells, {values}' if self._rows else f'{values}, cells'}]"

    def __call__(self, outputs: tuple[FloatArray, ...]) -> Detections:
        cells = outputs[0][0] if self._rows else outputs[0][0].T
        bound = cells[:, 4] if self._objectness else cells[:, 4:].max(axis=1)
        chosen = _above(bound, self._min_score)
        if not len(chosen):
            return NOTHING
        picked = cells[chosen]
        classes, best = _best(picked[:, 4 + self._objectness :])
        scores = picked[:, 4] * best if self._objectness else best
        places = picked[:, :4].T.copy()
        places[2:] *= np.float32(0.5)
        return Detections.of_arrays(_corners(places) * self._unit, scores, classes)


class Boxes:
    """`boxes`: [1, n, 6] or [n, 6], each row x1, y1, x2, y2, score, class: suppression is in the graph already."""

    def __init__(self, height: int, width: int, *, min_score: float, unit: str = "pixels") -> None:
        self._min_score = np.float32(min_score)
        self._unit = _unit(unit, height, width)

    def misfit(self, shapes: Shapes, classes: int) -> str | None:
        fits = len(shapes) == 1 and len(shapes[0]) in (2, 3) and shapes[0][-1] == 6
        return None if fits and (len(shapes[0]) == 2 or shapes[0][0] == 1) else "one output [1, n, 6] or [n, 6]"

    def __call__(self, outputs: tuple[FloatArray, ...]) -> Detections:
        rows = outputs[0].reshape(-1, 6)
        picked = rows[_above(rows[:, 4], self._min_score)]
        return Detections.of_arrays(picked[:, :4] * self._unit, picked[:, 4], _whole(picked[:, 5]))


class Ssd:
    """`ssd`: boxes [1, n, 4], classes [1, n], scores [1, n] and count [1], as TFLite's detection operator gives them.

    Boxes are y1, x1, y2, x2 as shares of the input. The parameters say which output is which.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        min_score: float,
        boxes: int = 0,
        classes: int = 1,
        scores: int = 2,
        count: int = 3,
    ) -> None:
        if sorted((boxes, classes, scores, count)) != [0, 1, 2, 3]:
            raise ValueError("boxes, classes, scores and count must be 0, 1, 2 and 3 in some order")
        self._min_score = np.float32(min_score)
        self._places = boxes, classes, scores, count
        self._unit = _unit("normalized", height, width)

    def misfit(self, shapes: Shapes, classes: int) -> str | None:
        expected = "four outputs: boxes [1, n, 4], classes [1, n], scores [1, n], count [1]"
        if len(shapes) != 4:
            return expected
        boxes, labels, scores, count = (shapes[place] for place in self._places)
        n = boxes[1] if len(boxes) == 3 else 0
        return None if (boxes, labels, scores, count) == ((1, n, 4), (1, n), (1, n), (1,)) else expected

    def __call__(self, outputs: tuple[FloatArray, ...]) -> Detections:
        boxes, classes, scores, count = (outputs[place].reshape(-1) for place in self._places)
        valid = max(0, min(len(scores), int(count[0])))
        chosen = _above(scores[:valid], self._min_score)
        picked = boxes.reshape(-1, 4)[chosen][:, (1, 0, 3, 2)]
        return Detections.of_arrays(picked * self._unit, scores[chosen], _whole(np.rint(classes[chosen])))


DECODERS: dict[str, type[FastestDet] | type[Yolox] | type[Yolo] | type[Boxes] | type[Ssd]] = {
    "fastestdet": FastestDet,
    "yolox": Yolox,
    "yolo": Yolo,
    "boxes": Boxes,
    "ssd": Ssd,
}


def build_decoder(spec: Postprocess, height: int, width: int) -> Decoder:
    """The decoder that a manifest names, for inputs of that size; `min_score` is a parameter of every one.

    Raises BundleError for a name or parameter that this version lacks.
    """
    if spec.name not in DECODERS:
        raise BundleError(
            f"manifest.json: postprocess: no function '{spec.name}'; this version has {', '.join(DECODERS)}"
        )
    try:
        return DECODERS[spec.name](height, width, **spec.params)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise BundleError(f"manifest.json: postprocess: params: {error}") from error


def yolo_cells(height: int, width: int, strides: Sequence[float]) -> tuple[FloatArray, FloatArray]:
    """(column and row float32 [cells, 2], stride float32 [cells]) of a grid for each stride, one after the other."""
    origins, steps = [], []
    for stride in map(int, strides):
        rows, columns = np.mgrid[: height // stride, : width // stride]
        origins.append(np.stack((columns, rows), axis=-1).reshape(-1, 2))
        steps.append(np.full(rows.size, stride))
    return np.concatenate(origins).astype(np.float32), np.concatenate(steps).astype(np.float32)


def _above(scores: FloatArray, least: np.float32) -> ClassArray:
    """The indices of scores that are not below `least`: NaN, which is below nothing, is not lost here."""
    chosen = scores < least
    return np.logical_not(chosen, out=chosen).nonzero()[0]


def _whole(classes: FloatArray) -> ClassArray:
    """Classes that the model gives as floats; NaN becomes a class that no model has, which the detector refuses."""
    with np.errstate(invalid="ignore"):
        return classes.astype(np.int64)


def _best(scores: FloatArray) -> tuple[ClassArray, FloatArray]:
    """(class, its score) of each row."""
    # ufunc.reduce, because ndarray.max passes through Python once more: that costs as much as the maximum itself
    return scores.argmax(axis=1), np.maximum.reduce(scores, axis=1)


def _corners(places: FloatArray) -> FloatArray:
    """Centre and half size [4, n] (x, y, w, h) -> boxes [n, 4]."""
    edges: FloatArray = np.empty_like(places)
    np.subtract(places[:2], places[2:], out=edges[:2])
    np.add(places[:2], places[2:], out=edges[2:])
    return edges.T


def _unit(unit: str, height: int, width: int) -> FloatArray:
    if unit not in UNITS:
        raise ValueError(f"unit is {unit!r}, known are {', '.join(UNITS)}")
    return np.array([width, height] * 2 if unit == "normalized" else [1.0] * 4, dtype=np.float32)
