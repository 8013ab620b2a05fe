"""How images become the tensor that a file takes: seen in the file, usual for its family, or said by a person.

Every value is kept with where it comes from, so that it can be shown: a wrong order of colours is no error that
anything reports, only a model that sees badly.
"""

from dataclasses import dataclass
from typing import Any

from roadloop_cloud.importing.inspect import PLAIN, ModelFile, Tensor
from roadloop_cloud.importing.layouts import Family, ImageInput, Recognised
from roadloop_models.bundle import Postprocess
from roadloop_models.detect import ImageLetterbox
from roadloop_models.detect.detector import DEFAULT_MAX_IOU, DEFAULT_MIN_SCORE
from roadloop_models.errors import ConfigError

PIXEL = 1.0 / 255.0


@dataclass(frozen=True)
class Choices:
    """What a person said; None where nothing was said."""

    order: str | None = None
    scale: float | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    fit: str | None = None
    pad: int | None = None
    min_score: float | None = None
    max_iou: float | None = None


@dataclass(frozen=True)
class Usual:
    """What a family's own code does; None where its models differ."""

    project: str
    order: str | None = None
    scale: float | None = None
    fit: str | None = None
    min_score: float = DEFAULT_MIN_SCORE
    max_iou: float = DEFAULT_MAX_IOU


USUAL: dict[Family, Usual] = {
    "fastestdet": Usual("FastestDet", "bgr", PIXEL, "stretch", 0.5),
    "yolox": Usual("YOLOX", "bgr", 1.0, "corner"),
    "yolo": Usual("YOLOv5 and YOLOv8", "rgb", PIXEL, "center"),
    "ssd": Usual("TFLite's SSD", "rgb", None, "stretch"),
    "boxes": Usual("such files"),
    "classifier": Usual("classifiers", None, None, "stretch"),
}


@dataclass(frozen=True)
class Setting:
    """One value of the bundle, and where it comes from."""

    name: str
    value: float | str | tuple[float, ...]
    source: str


def preprocessing(
    file: ModelFile, image: ImageInput, family: Family, choices: Choices
) -> tuple[ImageLetterbox, list[Setting]]:
    """What brings an image to the file's input, and where each value comes from.

    Raises ConfigError naming every option that is needed because nothing tells its value.
    """
    usual, seen = USUAL[family], _stored_pixels(file.inputs[0])
    by_habit, by_file = f"usual for {usual.project}", "seen: how the input is quantized"
    order = _first("order", (choices.order, "--order"), (usual.order, by_habit))
    scale = _first("scale", (choices.scale, "--scale"), (seen and seen[0], by_file), (usual.scale, by_habit))
    mean = _first(
        "mean", (choices.mean, "--mean"), (seen and (seen[1],) * 3, by_file), ((0.0,) * 3, "nothing is shifted")
    )
    std = _first("std", (choices.std, "--std"), ((1.0,) * 3, "nothing is divided"))
    fit = _first("fit", (choices.fit, "--fit"), (usual.fit, by_habit))
    pad = _first("pad", (choices.pad, "--pad"), (114, "usual grey"))
    found = (order, scale, mean, std, fit)
    missing = [
        f"--{name} {WAYS[name]}" for name, setting in zip(WAYS, (order, scale, fit), strict=True) if setting is None
    ]
    if missing:
        raise ConfigError(
            f"{file.path}: {file}: what it makes of a pixel cannot be seen; give {' and '.join(missing)} "
            "(tensor = (pixel * scale - mean) / std)"
        )
    settings = [setting for setting in (*found, pad) if setting is not None]
    if fit is not None and fit.value == "stretch":
        settings.pop()
    params: dict[str, Any] = {
        setting.name: list(setting.value) if isinstance(setting.value, tuple) else setting.value for setting in settings
    }
    try:
        letterbox = ImageLetterbox(image.height, image.width, layout=image.layout, **params)
    except ValueError as error:
        raise ConfigError(f"{file.path}: {error}") from error
    seen_input = Setting("input", f"{image.height}x{image.width} {image.layout}", "seen: the shape of the input")
    return letterbox, [seen_input, *settings]


def postprocessing(recognised: Recognised, choices: Choices) -> tuple[Postprocess, list[Setting]]:
    """The decoding with its thresholds, and where each value comes from."""
    settings = [Setting("outputs", recognised.postprocess.name, f"seen: {recognised.why}")]
    settings += [
        Setting(name, value, "seen: on noise")
        for name, value in recognised.postprocess.params.items()
        if isinstance(value, str | float | int)
    ]
    if recognised.family == "classifier":
        return recognised.postprocess, settings
    usual = USUAL[recognised.family]
    for name, said, otherwise in (
        ("min_score", choices.min_score, usual.min_score),
        ("max_iou", choices.max_iou, usual.max_iou),
    ):
        option = "--" + name.replace("_", "-")
        settings.append(Setting(name, otherwise, "default") if said is None else Setting(name, said, option))
    params = {setting.name: setting.value for setting in settings[1:]}
    return Postprocess(recognised.postprocess.name, params), settings  # type: ignore[arg-type]


WAYS = {"order": "rgb|bgr", "scale": "NUMBER", "fit": "stretch|corner|center"}
"""The options without which an image may be impossible to bring in."""


def _first(name: str, *offers: tuple[float | str | tuple[float, ...] | None, str]) -> Setting | None:
    """The first (value, source) whose value is not None."""
    return next((Setting(name, value, source) for value, source in offers if value is not None), None)


def _stored_pixels(tensor: Tensor) -> tuple[float, float] | None:
    """(scale, mean) that bring a pixel to the integer that an 8-bit input stores; None where the input is no integer.

    An 8-bit image goes in as it is, for int8 less 128: real = scale * (stored - zero point).
    """
    if tensor.dtype not in ("uint8", "int8"):
        return None
    stored = tensor.quantization or PLAIN
    return stored.scale, stored.scale * (stored.zero_point + (128 if tensor.dtype == "int8" else 0))
