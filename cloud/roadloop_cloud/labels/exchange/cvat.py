"""CVAT's own format, "CVAT for images 1.1": annotations.xml, as a file or in the zip that CVAT exports.

An image's class is a `tag`, boxes are `box` elements with pixels of the image (xtl, ytl, xbr, ybr); the track is a
text attribute, the weather one to select. See docs.cvat.ai, "XML annotation format".
"""

import io
import json
import math
import zipfile
from pathlib import Path
from xml.etree import ElementTree as XmlTree

from roadloop_cloud.labels.exchange.base import (
    IMAGES,
    MAX_FILE_BYTES,
    NO_WEATHER,
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

FILE, LABELS_FILE = "annotations.xml", "labels.json"
VERSION = "1.1"
_ATTRIBUTES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (TRACK, "text", ("",)),
    (WEATHER, "select", (NO_WEATHER, *WEATHERS)),
)
"""Name, how it is asked, and the values that there are, the first of which is there where nobody says another."""


class CvatFormat:
    """See the module. A rotated box, a mask or a polygon is refused: it says what a box cannot."""

    def write(self, folder: Path, sheet: Sheet) -> Path:
        """annotations.xml with what is believed so far, and labels.json for the "Raw" tab of a new CVAT task."""
        root = XmlTree.Element("annotations")
        XmlTree.SubElement(root, "version").text = VERSION
        _add_meta(root, sheet)
        for number, asked in enumerate(sheet.asked):
            _add_image(root, number, asked)
        XmlTree.indent(root)
        path = folder / FILE
        path.write_bytes(XmlTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")
        (folder / LABELS_FILE).write_text(json.dumps(_label_constructor(sheet), indent=1) + "\n", encoding="utf-8")
        return path

    def read(self, path: Path, kind: Kind) -> list[Heard]:
        """Images with a tag, or with boxes; those without are passed over. Raises DataError naming image and field."""
        root = _parse(path)
        found: dict[str, Heard] = {}
        for image in root.iter("image"):
            where = f"{path}: image {image.get('name')!r}"
            item = item_of(Path(image.get("name") or "").name, where)
            value = _tagged(image, where) if kind == "class" else _boxed(image, where)
            if value is None:
                continue
            if item in found:
                raise DataError(f"{where}: is in the file twice")
            found[item] = Heard(item, value, None, where)
        if root.find(".//track") is not None:
            raise DataError(f"{path}: has tracks; export it as 'CVAT for images 1.1'")
        return list(found.values())


def _add_meta(root: XmlTree.Element, sheet: Sheet) -> None:
    task = XmlTree.SubElement(XmlTree.SubElement(root, "meta"), "task")
    for name, text in (("name", sheet.task), ("size", str(len(sheet.asked))), ("mode", "annotation")):
        XmlTree.SubElement(task, name).text = text
    labels = XmlTree.SubElement(task, "labels")
    for name in sheet.classes:
        label = XmlTree.SubElement(labels, "label")
        XmlTree.SubElement(label, "name").text = name
        XmlTree.SubElement(label, "type").text = _shape(sheet.kind)
        attributes = XmlTree.SubElement(label, "attributes")
        for asked, input_type, values in _attributes(sheet.kind):
            attribute = XmlTree.SubElement(attributes, "attribute")
            told = (
                ("name", asked),
                ("mutable", "False"),
                ("input_type", input_type),
                ("default_value", values[0]),
                ("values", "\n".join(values)),
            )
            for key, text in told:
                XmlTree.SubElement(attribute, key).text = text


def _label_constructor(sheet: Sheet) -> list[dict[str, object]]:
    attributes = [
        {"name": asked, "mutable": False, "input_type": input_type, "default_value": values[0], "values": list(values)}
        for asked, input_type, values in _attributes(sheet.kind)
    ]
    return [{"name": name, "type": _shape(sheet.kind), "attributes": attributes} for name in sheet.classes]


def _attributes(kind: Kind) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    return _ATTRIBUTES if kind == "class" else ()


def _shape(kind: Kind) -> str:
    return "tag" if kind == "class" else "rectangle"


def _add_image(root: XmlTree.Element, number: int, asked: Asked) -> None:
    size = {"width": str(asked.width), "height": str(asked.height)}
    image = XmlTree.SubElement(root, "image", {"id": str(number), "name": f"{IMAGES}/{asked.image}", **size})
    if isinstance(asked.suggestion, ClassValue):
        tag = XmlTree.SubElement(image, "tag", {"label": asked.suggestion.name, "source": "auto"})
        XmlTree.SubElement(tag, "attribute", {"name": TRACK}).text = asked.suggestion.track or ""
        XmlTree.SubElement(tag, "attribute", {"name": WEATHER}).text = asked.suggestion.weather or NO_WEATHER
    elif asked.suggestion is not None:
        for box in asked.suggestion.boxes:
            corners = {"xtl": box.left, "ytl": box.top, "xbr": box.left + box.width, "ybr": box.top + box.height}
            places = {name: f"{value:.2f}" for name, value in corners.items()}
            told = {"label": box.name, "source": "auto", "occluded": "0", **places, "z_order": "0"}
            XmlTree.SubElement(image, "box", told)


def _parse(path: Path) -> XmlTree.Element:
    raw = read_bytes(path)
    if zipfile.is_zipfile(io.BytesIO(raw)):
        try:
            with zipfile.ZipFile(io.BytesIO(raw)) as archive:
                if archive.getinfo(FILE).file_size > MAX_FILE_BYTES:
                    raise DataError(f"{path}: {FILE}: more than {MAX_FILE_BYTES} bytes")
                raw = archive.read(FILE)
        except (KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise DataError(f"{path}: no readable {FILE} in it: {error}") from error
    if b"<!DOCTYPE" in raw or b"<!ENTITY" in raw:
        raise DataError(f"{path}: has a document type of its own; CVAT writes none")
    try:
        root = XmlTree.fromstring(raw)
    except XmlTree.ParseError as error:
        raise DataError(f"{path}: {error}") from error
    if root.tag != "annotations":
        raise DataError(f"{path}: begins with <{root.tag}>, expected <annotations>: 'CVAT for images 1.1'")
    return root


def _tagged(image: XmlTree.Element, where: str) -> ClassValue | None:
    tags = image.findall("tag")
    if not tags:
        return None
    if len(tags) > 1:
        raise DataError(f"{where}: has {len(tags)} tags; one is expected")
    told = {item.get("name"): (item.text or "").strip() for item in tags[0].findall("attribute")}
    return ClassValue(_field(tags[0], "label", where), told.get(TRACK) or None, weather_of(told.get(WEATHER)))


def _boxed(image: XmlTree.Element, where: str) -> BoxesValue | None:
    others = sorted({shape.tag for shape in image} - {"box", "tag"})
    if others:
        raise DataError(f"{where}: has {', '.join(others)}; only boxes are read")
    boxes = []
    for box in image.findall("box"):
        if float(box.get("rotation") or 0) != 0:
            raise DataError(f"{where}: a box is rotated; only upright ones are read")
        left, top, right, bottom = (_number(box, name, where) for name in ("xtl", "ytl", "xbr", "ybr"))
        if right <= left or bottom <= top:
            raise DataError(f"{where}: a box has no area: {left:g},{top:g} to {right:g},{bottom:g}")
        name = _field(box, "label", where)
        boxes.append(Box(name, left, top, round(right - left, 2), round(bottom - top, 2)))
    return BoxesValue(tuple(boxes)) if boxes else None


def _field(element: XmlTree.Element, name: str, where: str) -> str:
    value = (element.get(name) or "").strip()
    if not value:
        raise DataError(f"{where}: <{element.tag}> without '{name}'")
    return value


def _number(element: XmlTree.Element, name: str, where: str) -> float:
    try:
        value = float(_field(element, name, where))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: <{element.tag}> field '{name}' is {element.get(name)!r}")
    return value
