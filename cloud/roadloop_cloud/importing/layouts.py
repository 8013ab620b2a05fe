"""What a file's tensors mean: recognised by their shapes, and where shapes are alike by what the file answers to noise.

Each finding says why. What is not recognised is refused with what was found and what is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from roadloop_cloud.importing.inspect import ModelFile
from roadloop_models.bundle import Postprocess
from roadloop_models.detect.decode import DECODERS, Params, yolo_cells
from roadloop_models.errors import ConfigError, DataError
from roadloop_models.runners import FloatArray

STRIDES = (8, 16, 32)
Family = Literal["fastestdet", "yolox", "yolo", "boxes", "ssd", "classifier"]
KNOWN_LAYOUTS = """one output [1, 5+classes, rows, columns] (FastestDet); [1, cells, 5+classes] (YOLOX, YOLOv5); \
[1, 4+classes, cells] (YOLOv8 and later); [1, n, 6] or [n, 6] (box, score, class); four outputs boxes [1, n, 4], \
classes [1, n], scores [1, n], count [1] (TFLite's detection operator)"""
_FOLLOWS = 0.9
"""Correlation: decoded boxes of noise reach 0.99 and more, offsets stay near 0."""


@dataclass(frozen=True)
class Recognised:
    """What the outputs are."""

    family: Family
    postprocess: Postprocess
    why: str


@dataclass(frozen=True)
class Hints:
    """What a person said of the outputs."""

    decoder: str | None = None
    unit: str | None = None
    """`pixels` or `normalized`: what boxes are measured in."""
    scores: str | None = None
    """The name of the output with the scores, of four."""


@dataclass(frozen=True)
class ImageInput:
    """What the one input is."""

    height: int
    width: int
    layout: Literal["nchw", "nhwc"]


@dataclass(frozen=True)
class Evidence:
    """What there is to go by."""

    file: ModelFile
    image: ImageInput
    classes: int
    """How many labels the user has."""
    answers: Sequence[tuple[FloatArray, ...]]
    """The outputs for inputs of noise."""
    hints: Hints = Hints()

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the outputs."""
        return [tuple(size or 0 for size in tensor.dims) for tensor in self.file.outputs]

    @property
    def cells(self) -> int:
        """How many cells YOLO's three grids have together."""
        return len(yolo_cells(self.image.height, self.image.width, STRIDES)[1])

    def refused(self) -> DataError:
        """The layout is unknown."""
        return DataError(
            f"{self.file.path}: {self.file}; that is no layout of a detector that is known here: {KNOWN_LAYOUTS}"
        )


def image_input(file: ModelFile) -> ImageInput:
    """The file's image input. Raises DataError where it takes something else; its dimensions are fixed."""
    dims = file.inputs[0].dims
    if len(file.inputs) != 1 or len(dims) != 4 or dims[0] != 1 or 3 not in (dims[1], dims[3]):
        raise DataError(f"{file.path}: {file}; expected one image [1, 3, height, width] or [1, height, width, 3]")
    _, first, second, third = (size or 0 for size in dims)
    if third == 3 and first != 3:
        return ImageInput(first, second, "nhwc")
    return ImageInput(second, third, "nchw")


def recognise_classifier(evidence: Evidence) -> Recognised:
    """A classifier with as many classes as labels; its answers may be logits or probabilities. Raises DataError."""
    if evidence.shapes != [(1, evidence.classes)]:
        raise DataError(
            f"{evidence.file.path}: {evidence.file}; expected one output [1, {evidence.classes}], a score for each "
            "label"
        )
    values = np.stack([answer[0].reshape(-1) for answer in evidence.answers])
    if (values >= 0).all() and np.allclose(values.sum(axis=1), 1.0, atol=1e-2):
        return Recognised("classifier", Postprocess("classify", {"scores": "probabilities"}), "its answers sum to 1")
    return Recognised("classifier", Postprocess("classify", {"scores": "logits"}), "its answers do not sum to 1")


def recognise_detector(evidence: Evidence) -> Recognised:
    """Which detector's layout the outputs have.

    Raises DataError where they have none that is known, or one of another number of classes; ConfigError naming the
    option where they could mean two things.
    """
    shapes, decoder = evidence.shapes, evidence.hints.decoder
    if len(shapes) == 4 and decoder in (None, "ssd"):
        return _ssd(evidence)
    if decoder is not None:
        return _named(evidence, decoder)
    if len(shapes) != 1:
        raise evidence.refused()
    shape, image = shapes[0], evidence.image
    if len(shape) == 4 and shape[0] == 1 and shape[2] * image.width == shape[3] * image.height:
        _check_classes(evidence, shape[1], {5: "FastestDet"})
        return Recognised("fastestdet", Postprocess("fastestdet"), f"a column for each of {shape[2]}x{shape[3]} cells")
    if len(shape) == 3 and shape[:2] in ((1, evidence.cells), (1, 3 * evidence.cells)):
        return _rows(evidence)
    if len(shape) == 3 and shape[0] == 1 and shape[2] == evidence.cells:
        _check_classes(evidence, shape[1], {4: "YOLOv8"})
        params: Params = {"layout": "columns", "objectness": 0, "unit": _unit(evidence, _columns(evidence))}
        return Recognised(
            "yolo", Postprocess("yolo", params), f"a column for each of {shape[2]} cells of strides 8 to 32"
        )
    if len(shape) in (2, 3) and shape[-1] == 6 and (len(shape) == 2 or shape[0] == 1):
        return _boxes(evidence)
    raise evidence.refused()


def _named(evidence: Evidence, decoder: str) -> Recognised:
    """The layout that a person named. Whether the outputs fit it, `open_detector` checks."""
    if decoder not in DECODERS or len(evidence.shapes) != 1:
        known = [name for name in DECODERS if name != "ssd"]
        raise ConfigError(
            f"--decoder: '{decoder}' with {len(evidence.shapes)} outputs; of one output: {', '.join(known)}"
        )
    if decoder == "boxes":
        return _boxes(evidence)
    shape = evidence.shapes[0]
    params: Params = {}
    if decoder == "yolo" and len(shape) == 3:
        columns = shape[1] == 4 + evidence.classes
        params = {
            "layout": "columns" if columns else "rows",
            "objectness": int(shape[2] == 5 + evidence.classes),
            "unit": _unit(evidence, _columns(evidence) if columns else _places(evidence)),
        }
    return Recognised(decoder, Postprocess(decoder, params), "--decoder")  # type: ignore[arg-type]


def _boxes(evidence: Evidence) -> Recognised:
    values = np.concatenate([answer[0].reshape(-1, 6)[:, :4] for answer in evidence.answers])
    return Recognised("boxes", Postprocess("boxes", {"unit": _unit(evidence, values)}), "rows of box, score and class")


def _rows(evidence: Evidence) -> Recognised:
    """[1, cells, values]: YOLOX where the boxes are offsets from their cells, else decoded boxes."""
    _, rows, values = evidence.shapes[0]
    _check_classes(evidence, values, {5: "YOLOX or YOLOv5", 4: "decoded boxes without objectness"})
    objectness, three_anchors = values == 5 + evidence.classes, rows != evidence.cells
    why = f"a row for each of {rows} cells of strides 8 to 32"
    if objectness and not three_anchors and not _follows_cells(evidence):
        return Recognised("yolox", Postprocess("yolox"), f"{why}; x and y are offsets: they do not follow the cells")
    why += ", three anchors each" if three_anchors else "; x and y are places: they follow the cells"
    unit = _unit(evidence, _places(evidence))
    return Recognised("yolo", Postprocess("yolo", {"layout": "rows", "objectness": int(objectness), "unit": unit}), why)


def _places(evidence: Evidence) -> FloatArray:
    """x and y of rows."""
    return np.concatenate([answer[0][0, :, :2] for answer in evidence.answers])


def _columns(evidence: Evidence) -> FloatArray:
    """x and y of columns."""
    return np.concatenate([answer[0][0, :2] for answer in evidence.answers])


def _follows_cells(evidence: Evidence) -> bool:
    """Whether the first value of the rows is a place in the image: then it goes with the column of the row's cell."""
    origins, steps = yolo_cells(evidence.image.height, evidence.image.width, STRIDES)
    columns = origins[:, 0] * steps
    with np.errstate(invalid="ignore", divide="ignore"):  # of a constant: not a number, and so no place
        found = [np.corrcoef(columns, answer[0][0, :, 0].astype(np.float64))[0, 1] for answer in evidence.answers]
    return bool(np.nanmax([*found, -1.0]) > _FOLLOWS)


def _unit(evidence: Evidence, coordinates: FloatArray) -> str:
    """Whether boxes are in pixels or shares of the image: by how far they reach on noise."""
    if evidence.hints.unit is not None:
        return evidence.hints.unit
    reach = float(np.abs(coordinates).max(initial=0.0))
    if reach == 0.0:
        raise ConfigError(
            f"{evidence.file.path}: it finds nothing in noise, so whether boxes are in pixels or shares of the image "
            "cannot be seen; give --boxes pixels or --boxes normalized"
        )
    return "pixels" if reach > 2.0 else "normalized"


def _ssd(evidence: Evidence) -> Recognised:
    shapes, outputs = evidence.shapes, evidence.file.outputs
    boxes = [place for place, shape in enumerate(shapes) if len(shape) == 3 and shape[0] == 1 and shape[2] == 4]
    count = [place for place, shape in enumerate(shapes) if shape == (1,)]
    rows = [place for place, shape in enumerate(shapes) if len(shape) == 2]
    if (len(boxes), len(count), len(rows)) != (1, 1, 2) or any(shapes[at] != (1, shapes[boxes[0]][1]) for at in rows):
        raise evidence.refused()
    names = [outputs[at].name for at in rows]
    said = evidence.hints.scores
    if said is not None and said not in names:
        raise ConfigError(f"--scores: '{said}' is none of {', '.join(names)}")
    scores = [at for at in rows if (outputs[at].name == said if said else _are_scores(evidence, at))]
    if len(scores) != 1:
        raise ConfigError(
            f"{evidence.file.path}: which of the outputs {' and '.join(names)} has the scores cannot be seen; name it "
            "with --scores NAME"
        )
    places = {"boxes": boxes[0], "classes": sum(rows) - scores[0], "scores": scores[0], "count": count[0]}
    return Recognised("ssd", Postprocess("ssd", dict(places)), "four outputs: boxes, classes, scores and count")


def _are_scores(evidence: Evidence, place: int) -> bool:
    """Scores lie between 0 and 1 and are not whole numbers; classes are."""
    values = np.concatenate([answer[place].reshape(-1) for answer in evidence.answers])
    return bool((values >= 0).all() and (values <= 1).all() and (values != np.rint(values)).any())


def _check_classes(evidence: Evidence, values: int, before: dict[int, str]) -> None:
    """`before`: how many values stand before the class scores -> what that layout is called. Raises DataError."""
    if values - evidence.classes not in before:
        meant = " or ".join(f"{values - size} classes ({name})" for size, name in before.items())
        raise DataError(
            f"{evidence.file.path}: {evidence.file}: a detector of {meant}; the labels are {evidence.classes}"
        )
