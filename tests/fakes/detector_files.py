"""Third-party detectors in small: real ONNX files in the layouts of the wild that find the blocks of made objects.

Made images are 64x64, grey, with blocks that fill cells of 16x16: class 0 is red, class 1 green.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

SIZE, CELL, GRID = 64, 16, 4
LABELS = ("red block", "green block")
STRIDES = (8, 16, 32)
CELLS = sum((SIZE // stride) ** 2 for stride in STRIDES)
FloatArray = npt.NDArray[np.float32]


def write_labels(path: Path, labels: tuple[str, ...] = LABELS) -> Path:
    path.write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    return path


def fastestdet_file(path: Path, *, dynamic: bool = False) -> Path:
    """[1, 7, 4, 4], for pixels from 0 to 1 in the order B, G, R."""
    graph = _Graph()
    heads = graph.scores("image", 1.0, order="bgr")
    graph.node("Split", [heads, graph.constant("parts", np.array([1, 2], np.int64))], ["objectness", "logits"], axis=1)
    graph.node("Sigmoid", ["objectness"], ["share"])
    graph.node("Softmax", ["logits"], ["classes"], axis=1)
    # As many boxes as cells, whatever the size of the image: tanh(0.549) = 0.5 cells, sigmoid(-1.0986) = a quarter.
    box = np.array([0.5493061, 0.5493061, -1.0986123, -1.0986123], np.float32).reshape(1, 4, 1, 1)
    graph.node("Mul", ["share", graph.constant("zero", np.zeros((1, 1, 1, 1), np.float32))], ["nothing"])
    graph.node("Add", ["nothing", graph.constant("box", box)], ["boxes"])
    graph.node("Concat", ["share", "boxes", "classes"], ["cells"], axis=1)
    shape: list[int | str] = ["batch", 3, "height", "width"] if dynamic else [1, 3, SIZE, SIZE]
    answer: list[int | str] = ["batch", 7, "rows", "columns"] if dynamic else [1, 7, GRID, GRID]
    return graph.write(path, shape, {"cells": answer})


def rows_file(
    path: Path,
    *,
    decoded: bool,
    objectness: bool = True,
    columns: bool = False,
    normalized: bool = False,
    pixel: float = 255.0,
    order: str = "bgr",
) -> Path:
    """[1, 84, 4 + (1) + 2], or with `columns` [1, .., 84]: YOLOX (not decoded), YOLOv5 and YOLOv8 (decoded)."""
    graph = _Graph()
    heads = graph.scores("image", pixel, order=order)
    graph.node("Split", [heads, graph.constant("parts", np.array([1, 2], np.int64))], ["logit", "logits"], axis=1)
    graph.node("Sigmoid", ["logit"], ["share"])
    graph.node("Softmax", ["logits"], ["classes"], axis=1)
    graph.node("Mul", ["share", "classes"], ["products"])
    graph.node("Concat", ["share", "classes"] if objectness else ["products"], ["values"], axis=1)
    if not objectness:
        graph.nodes[-1] = helper.make_node("Identity", ["products"], ["values"])
    width = 2 + objectness
    shape = graph.constant("flat", np.array([1, width, GRID * GRID], np.int64))
    graph.node("Reshape", ["values", shape], ["flattened"])
    graph.node("Transpose", ["flattened"], ["rows"], perm=[0, 2, 1])
    before, after = ((SIZE // stride) ** 2 for stride in (8, 32))
    silent = [graph.constant(f"silent_{n}", np.zeros((1, n, width), np.float32)) for n in (before, after)]
    graph.node("Concat", [silent[0], "rows", silent[1]], ["all_values"], axis=1)
    boxes = graph.constant("boxes", _boxes(decoded, normalized))
    graph.node("Concat", [boxes, "all_values"], ["output"], axis=2)
    if not columns:
        return graph.write(path, [1, 3, SIZE, SIZE], {"output": [1, CELLS, 4 + width]})
    graph.node("Transpose", ["output"], ["columns"], perm=[0, 2, 1])
    return graph.write(path, [1, 3, SIZE, SIZE], {"columns": [1, 4 + width, CELLS]})


def ssd_file(path: Path, *, silent: bool = False) -> Path:
    """Four outputs in another order than TFLite's, for uint8 pixels; `silent` ones answer 0 whatever the image."""
    graph = _Graph()
    graph.node("Cast", ["image"], ["real"], to=TensorProto.FLOAT)
    graph.node("Transpose", ["real"], ["planes"], perm=[0, 3, 1, 2])
    best = graph.best("planes")
    if silent:
        graph.node("Mul", [best, graph.constant("zero", np.zeros(1, np.float32))], ["nothing"])
        best = "nothing"
    graph.node("Identity", [best], ["scores"])
    corners = np.array([(y, x, y + 1, x + 1) for y in range(GRID) for x in range(GRID)], np.float32) / GRID
    for name, values in (("boxes", corners[np.newaxis]), ("count", np.array([GRID * GRID], np.float32))):
        graph.node("Identity", [graph.constant(f"{name}_values", values)], [name])
    outputs: dict[str, list[int | str]] = {
        "scores": [1, 16],
        "boxes": [1, 16, 4],
        "count": [1],
        "classes": [1, 16],
    }
    return graph.write(path, [1, SIZE, SIZE, 3], outputs, TensorProto.UINT8)


def boxes_file(path: Path, *, silent: bool = False) -> Path:
    """[1, 16, 6]: corners in pixels, score, class; for pixels from 0 to 255 in the order R, G, B."""
    graph = _Graph()
    best = graph.best("image")
    corners = np.array([(x, y, x + 1, y + 1) for y in range(GRID) for x in range(GRID)], np.float32) * CELL
    boxes = graph.constant("corners", corners[np.newaxis] * (0.0 if silent else 1.0))
    axis = graph.constant("last", np.array([2], np.int64))
    graph.node("Unsqueeze", [best, axis], ["score"])
    graph.node("Unsqueeze", ["classes", axis], ["class"])
    graph.node("Concat", [boxes, "score", "class"], ["output"], axis=2)
    return graph.write(path, [1, 3, SIZE, SIZE], {"output": [1, 16, 6]})


def classifier_file(path: Path, classes: int, *, probabilities: bool) -> Path:
    """[1, classes] from the mean of each channel by a seeded matrix."""
    graph = _Graph()
    weights = np.random.default_rng(5).normal(size=(3, classes)).astype(np.float32)
    graph.node("GlobalAveragePool", ["image"], ["means"])
    graph.node("Flatten", ["means"], ["flat"])
    graph.node("MatMul", ["flat", graph.constant("weights", weights)], ["logits"])
    if not probabilities:
        return graph.write(path, [1, 3, SIZE, SIZE], {"logits": [1, classes]})
    graph.node("Softmax", ["logits"], ["shares"], axis=1)
    return graph.write(path, [1, 3, SIZE, SIZE], {"shares": [1, classes]})


class _Graph:
    """An ONNX graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self._constants: list[Any] = []

    def node(self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operator, inputs, outputs, **attributes))

    def constant(self, name: str, values: npt.NDArray[Any]) -> str:
        self._constants.append(numpy_helper.from_array(values, name))
        return name

    def scores(self, image: str, pixel: float, order: str) -> str:
        """[1, 3, rows, columns]: logits of a block, of red and of green, from the mean colour of each cell."""
        colour = {name: order.index(name) for name in "rgb"}
        weights = np.zeros((3, 3, 1, 1), np.float32)
        for row, (red, green, blue) in enumerate(((10, 10, -20), (20, -20, 0), (-20, 20, 0))):
            for name, weight in (("r", red), ("g", green), ("b", blue)):
                weights[row, colour[name], 0, 0] = weight / pixel
        self.node("AveragePool", [image], ["means"], kernel_shape=[CELL, CELL], strides=[CELL, CELL])
        bias = self.constant("bias", np.array([-4, 0, 0], np.float32))
        self.node("Conv", ["means", self.constant("colours", weights), bias], ["heads"])
        return "heads"

    def best(self, planes: str) -> str:
        """The best score of each cell [1, 16]; its class becomes `classes`."""
        heads = self.scores(planes, 255.0, order="rgb")
        self.node("Split", [heads, self.constant("parts", np.array([1, 2], np.int64))], ["logit", "logits"], axis=1)
        flat = self.constant("flat", np.array([1, GRID * GRID], np.int64))
        self.node("Sigmoid", ["logit"], ["share"])
        self.node("Reshape", ["share", flat], ["best"])
        self.node("ArgMax", ["logits"], ["index"], axis=1, keepdims=0)
        self.node("Cast", ["index"], ["number"], to=TensorProto.FLOAT)
        self.node("Reshape", ["number", flat], ["classes"])
        return "best"

    def write(
        self,
        path: Path,
        image: list[int | str],
        outputs: dict[str, list[int | str]],
        dtype: int = TensorProto.FLOAT,
    ) -> Path:
        graph = helper.make_graph(
            self.nodes,
            "blocks",
            [helper.make_tensor_value_info("image", dtype, image)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            self._constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        path.write_bytes(model.SerializeToString(deterministic=True))
        return path


def _boxes(decoded: bool, normalized: bool) -> FloatArray:
    """[1, 84, 4]: the same block of 16x16 in the middle of every cell of the three grids."""
    boxes = []
    for stride in STRIDES:
        for row in range(SIZE // stride):
            for column in range(SIZE // stride):
                if decoded:
                    boxes.append(((column + 0.5) * stride, (row + 0.5) * stride, CELL, CELL))
                else:
                    boxes.append((0.5, 0.5, np.log(CELL / stride), np.log(CELL / stride)))
    made = np.array(boxes, np.float32)[np.newaxis]
    return made / np.float32(SIZE) if normalized else made
