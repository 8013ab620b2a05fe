"""Label Studio's JSON: tasks with predictions go out, tasks with annotations come in.

An image's class is a result of type `choices`, its weather another one; boxes are `rectanglelabels` in percent of the
image's size, the track is a `textarea`. See labelstud.io/guide/task_format and /guide/predictions.
"""

import math
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import msgspec

from roadloop_cloud.labels.exchange.base import (
    IMAGES,
    TRACK,
    WEATHER,
    Asked,
    Heard,
    Kind,
    Sheet,
    item_of,
    read_bytes,
    weather_of,
)
from roadloop_cloud.labels.words import WEATHERS, Box, BoxesValue, ClassValue
from roadloop_models.errors import DataError
from roadloop_models.typed import from_json

FILE, CONFIG_FILE = "tasks.json", "config.xml"
IMAGE_URL = "/data/local-files/?d="
"""Where Label Studio serves files below its LOCAL_FILES_DOCUMENT_ROOT; ours is the folder of the export."""
_LABEL, _IMAGE = "label", "image"


class _Result(msgspec.Struct):
    type: str
    from_name: str = ""
    value: dict[str, Any] = {}
    original_width: int | None = None
    original_height: int | None = None


class _Annotation(msgspec.Struct):
    result: list[_Result] = []
    was_cancelled: bool = False
    completed_by: int | dict[str, Any] | None = None


class _Task(msgspec.Struct):
    data: dict[str, Any]
    annotations: list[_Annotation] = []
    id: int | None = None


class LabelStudioFormat:
    """See the module."""

    def write(self, folder: Path, sheet: Sheet) -> Path:
        """tasks.json to import, and config.xml, the labelling interface of the project."""
        path = folder / FILE
        path.write_bytes(msgspec.json.format(msgspec.json.encode([_task(asked) for asked in sheet.asked]), indent=1))
        (folder / CONFIG_FILE).write_text(_interface(sheet), encoding="utf-8")
        return path

    def read(self, path: Path, kind: Kind) -> list[Heard]:
        """Every annotation that was not skipped, each as its author's. Predictions are not read: nobody said them.

        Raises DataError naming task and field.
        """
        try:
            tasks = from_json(read_bytes(path), list[_Task])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: {error}; export the project as 'JSON'") from error
        heard = []
        for number, task in enumerate(tasks):
            where = f"{path}: task {task.id if task.id is not None else f'number {number}'}"
            item = _item(task, where)
            for annotation in task.annotations:
                value = None if annotation.was_cancelled else _value(annotation, kind, where)
                if value is not None:
                    heard.append(Heard(item, value, _author(annotation), where))
        return heard


def _task(asked: Asked) -> dict[str, Any]:
    data = {
        _IMAGE: f"{IMAGE_URL}{IMAGES}/{asked.image}",
        "sha256": asked.item,
        "vehicle": asked.vehicle,
        "decision": asked.decision,
        "disagreement": asked.disagreement,
    }
    results = [] if asked.suggestion is None else _results(asked.suggestion, asked)
    score = {} if asked.confidence is None else {"score": asked.confidence}
    predictions = [{"model_version": asked.suggested_by, **score, "result": results}] if results else []
    return {"data": data, "predictions": predictions}


def _results(value: ClassValue | BoxesValue, asked: Asked) -> list[dict[str, Any]]:
    common = {"from_name": _LABEL, "to_name": _IMAGE}
    if isinstance(value, ClassValue):
        found = [{"id": "label", **common, "type": "choices", "value": {"choices": [value.name]}}]
        if value.weather is not None:
            weather = {"type": "choices", "value": {"choices": [value.weather]}}
            found.append({"id": WEATHER, "from_name": WEATHER, "to_name": _IMAGE, **weather})
        if value.track is not None:
            track = {"from_name": TRACK, "to_name": _IMAGE, "type": "textarea", "value": {"text": [value.track]}}
            found.append({"id": TRACK, **track})
        return found
    size = {"original_width": asked.width, "original_height": asked.height, "image_rotation": 0}
    return [
        {
            "id": f"box-{number}",
            **common,
            **size,
            "type": "rectanglelabels",
            "value": {
                "x": 100 * box.left / asked.width,
                "y": 100 * box.top / asked.height,
                "width": 100 * box.width / asked.width,
                "height": 100 * box.height / asked.height,
                "rotation": 0,
                "rectanglelabels": [box.name],
            },
        }
        for number, box in enumerate(value.boxes)
    ]


def _interface(sheet: Sheet) -> str:
    classes = sheet.kind == "class"
    tag, entry = ("Choices", "Choice") if classes else ("RectangleLabels", "Label")
    how = ' choice="single" showInLine="true"' if classes else ""
    lines = [f'  <Image name="{_IMAGE}" value="${_IMAGE}"/>', f'  <{tag} name="{_LABEL}" toName="{_IMAGE}"{how}>']
    lines += [f"    <{entry} value={quoteattr(name)}/>" for name in sheet.classes]
    lines.append(f"  </{tag}>")
    if classes:
        lines.append(f'  <Choices name="{WEATHER}" toName="{_IMAGE}" choice="single" showInLine="true">')
        lines += [f"    <Choice value={quoteattr(name)}/>" for name in WEATHERS]
        lines.append("  </Choices>")
        lines.append(f'  <TextArea name="{TRACK}" toName="{_IMAGE}" rows="1" maxSubmissions="1"/>')
    return "\n".join(["<View>", *lines, "</View>", ""])


def _item(task: _Task, where: str) -> str:
    named = task.data.get("sha256") or task.data.get(_IMAGE)
    if not isinstance(named, str):
        raise DataError(f"{where}: field 'data' has neither 'sha256' nor 'image'")
    return item_of(named.rsplit("/", 1)[-1], where)


def _author(annotation: _Annotation) -> str | None:
    by = annotation.completed_by
    if isinstance(by, dict):
        by = by.get("email") or by.get("username") or by.get("id")
    return None if by is None else by if isinstance(by, str) else f"label-studio user {by}"


def _value(annotation: _Annotation, kind: Kind, where: str) -> ClassValue | BoxesValue | None:
    if kind == "boxes":
        boxes = [_box(result, where) for result in annotation.result if result.type == "rectanglelabels"]
        return BoxesValue(tuple(boxes)) if boxes else None
    choices = [result for result in annotation.result if result.type == "choices"]
    chosen = [name for result in choices if result.from_name != WEATHER for name in _texts(result, "choices")]
    weathers = [name for result in choices if result.from_name == WEATHER for name in _texts(result, "choices")]
    if not chosen:
        return None
    if len(chosen) > 1 or len(weathers) > 1:
        raise DataError(f"{where}: {max(len(chosen), len(weathers))} choices; one is expected")
    tracks = [text for found in annotation.result if found.type == "textarea" for text in _texts(found, "text")]
    track = (tracks[0].strip() or None) if tracks else None
    return ClassValue(chosen[0], track, weather_of(weathers[0]) if weathers else None)


def _texts(result: _Result, field: str) -> list[str]:
    found = result.value.get(field)
    return [found] if isinstance(found, str) else [text for text in found or [] if isinstance(text, str)]


def _box(result: _Result, where: str) -> Box:
    names = _texts(result, "rectanglelabels")
    width, height = result.original_width, result.original_height
    if len(names) != 1 or not width or not height:
        raise DataError(f"{where}: a rectangle needs one label and the field 'original_width' and 'original_height'")
    if result.value.get("rotation"):
        raise DataError(f"{where}: a rectangle is rotated; only upright ones are read")
    shares = [result.value.get(name) for name in ("x", "y", "width", "height")]
    if not all(isinstance(share, int | float) and math.isfinite(share) for share in shares) or not all(shares[2:]):
        raise DataError(f"{where}: a rectangle's x, y, width and height are {shares}, expected percentages")
    left, top, wide, high = (float(share) / 100 for share in shares if share is not None)
    return Box(names[0], *(round(v, 2) for v in (left * width, top * height, wide * width, high * height)))
