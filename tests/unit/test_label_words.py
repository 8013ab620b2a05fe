"""What counts where several say something, and what files of labelling tools say: no clock, no database."""

import csv
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as XmlTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_cloud.labels.exchange import FORMATS, Asked, Kind, Sheet, get_format
from roadloop_cloud.labels.exchange.base import image_name
from roadloop_cloud.labels.words import ORIGINS, WEATHERS, Box, BoxesValue, ClassValue, Word, judge
from roadloop_models.errors import ConfigError, DataError, NotFoundError

CLASSES = ("stop", 'a "quoted" & odd <class>', "Zürich")
ITEM = "ab" * 32
OTHER = "cd" * 32


def word(name: str, origin: str, by: str = "x", confidence: float | None = None) -> Word:
    return Word("traffic-sign", ITEM, ClassValue(name), origin, by, confidence)  # type: ignore[arg-type]


def test_the_more_trusted_origin_counts_whatever_the_order() -> None:
    words = [word(origin, origin, confidence=0.99) for origin in ORIGINS]
    for count in range(1, len(words) + 1):
        for chosen in (words[-count:], words[-count:][::-1]):
            assert judge(chosen)[ITEM].word.origin == ORIGINS[-count]


def test_of_each_speaker_the_last_word_counts_and_others_are_named() -> None:
    words = [word("a", "person", "anna"), word("b", "person", "ben"), word("c", "person", "anna")]
    verdict = judge(words)[ITEM]
    assert verdict.word == words[2]
    assert verdict.against == (words[1],)
    assert judge([*words, word("c", "person", "ben")])[ITEM].against == ()


def test_an_unsure_teacher_says_nothing() -> None:
    assert judge([word("a", "teacher", confidence=0.9)]) == {}
    assert judge([word("a", "teacher", confidence=0.91)])[ITEM].word.value == ClassValue("a")
    assert judge([word("a", "teacher", confidence=0.99)], teacher_above=1.0) == {}


def asked(values: Sequence[ClassValue | BoxesValue | None]) -> list[Asked]:
    """One image a value, 640 x 480."""
    items = [f"{number:064x}" for number in range(len(values))]
    return [
        Asked(
            item=item,
            image=image_name(place, item, ".png"),
            width=640,
            height=480,
            suggestion=value,
            suggested_by="teacher a + b",
            confidence=0.75,
            disagreement=0.5,
            vehicle="car-1",
            decision="stop",
        )
        for place, (item, value) in enumerate(zip(items, values, strict=True))
    ]


_TRACKS = st.none() | st.text("abc 123/ü&<>\"'", min_size=1, max_size=8).map(str.strip).filter(bool)
_CLASS_VALUES = st.builds(ClassValue, st.sampled_from(CLASSES), _TRACKS, st.none() | st.sampled_from(WEATHERS))
_HUNDREDTHS = st.integers(0, 20_000).map(lambda number: number / 100)
_BOXES = st.builds(
    Box, st.sampled_from(CLASSES), _HUNDREDTHS, _HUNDREDTHS, *[st.integers(1, 20_000).map(lambda n: n / 100)] * 2
)
_BOXES_VALUES = st.lists(_BOXES, min_size=1, max_size=4).map(lambda boxes: BoxesValue(tuple(boxes)))


def answers(form: str, kind: Kind, folder: Path, values: Sequence[ClassValue | BoxesValue | None]) -> dict[str, object]:
    """What comes back where a person agrees with every suggestion."""
    folder.mkdir()
    file = FORMATS[form].write(folder, Sheet("traffic-sign", kind, CLASSES, asked(values)))
    if form == "label-studio":  # what the tool does where a person submits the prediction that it shows
        tasks = json.loads(file.read_text())
        for task in tasks:
            results = [result for prediction in task.pop("predictions") for result in prediction["result"]]
            author = {"id": 7, "email": "anna@example.org"}
            task["annotations"] = [{"id": 1, "result": results, "was_cancelled": False, "completed_by": author}]
        file.write_text(json.dumps(tasks))
    return {heard.item: heard.value for heard in FORMATS[form].read(file, kind)}


@pytest.mark.parametrize("form", ["cvat", "label-studio"])
@given(values=st.lists(st.none() | _CLASS_VALUES, min_size=1, max_size=4))
def test_classes_tracks_and_weather_survive_the_way_out_and_back(
    form: str, values: list[ClassValue | None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("classes") / "export"
    expected = {f"{n:064x}": value for n, value in enumerate(values) if value is not None}
    assert answers(form, "class", folder, values) == expected


@pytest.mark.parametrize("form", ["cvat", "label-studio"])
@given(values=st.lists(st.none() | _BOXES_VALUES, min_size=1, max_size=3))
def test_boxes_survive_the_way_out_and_back_to_a_hundredth_of_a_pixel(
    form: str, values: list[BoxesValue | None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("boxes") / "export"
    expected = {f"{n:064x}": value for n, value in enumerate(values) if value is not None}
    found = answers(form, "boxes", folder, values)
    assert found.keys() == expected.keys()
    for item, value in expected.items():
        back = found[item]
        assert isinstance(back, BoxesValue) and isinstance(value, BoxesValue)
        for box, came in zip(value.boxes, back.boxes, strict=True):
            assert came.name == box.name
            for side in ("left", "top", "width", "height"):
                assert getattr(came, side) == pytest.approx(getattr(box, side), abs=0.0101)


def test_a_csv_waits_for_a_person_and_comes_back(tmp_path: Path) -> None:
    file = FORMATS["csv"].write(tmp_path, Sheet("traffic-sign", "class", CLASSES, asked([ClassValue("stop"), None])))
    assert FORMATS["csv"].read(file, "class") == [], "a suggestion is nobody's answer"
    with file.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    assert rows[0]["suggestion"] == "stop"
    rows[0] |= {"label": "Zürich", "track": "t1", "weather": "foggy", "by": "anna"}
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (heard,) = FORMATS["csv"].read(file, "class")
    assert (heard.item, heard.value, heard.by) == ("0" * 64, ClassValue("Zürich", "t1", "foggy"), "anna")
    with pytest.raises(ConfigError, match="boxes"):
        FORMATS["csv"].write(tmp_path, Sheet("object-detection", "boxes", CLASSES, []))


def test_cvat_is_told_the_most_doubtful_first_and_its_labels(tmp_path: Path) -> None:
    file = FORMATS["cvat"].write(tmp_path, Sheet("traffic-sign", "class", CLASSES, asked([None, ClassValue("stop")])))
    root = XmlTree.parse(file).getroot()
    assert root.findtext("version") == "1.1"
    names = [image.get("name") for image in root.findall("image")]
    assert names == sorted(names, key=str), "CVAT sorts by name"
    assert [image.get("id") for image in root.findall("image")] == ["0", "1"]
    labels = json.loads((tmp_path / "labels.json").read_text(encoding="utf-8"))
    assert [(label["name"], label["type"]) for label in labels] == [(name, "tag") for name in CLASSES]
    choices = labels[0]["attributes"][1]
    assert (choices["name"], choices["input_type"]) == ("weather", "select")
    assert choices["values"] == ["unknown", *WEATHERS] and choices["default_value"] == "unknown"


def test_the_zip_that_cvat_exports_is_read(tmp_path: Path) -> None:
    body = f'<annotations><image id="3" name="images/00000-{ITEM}.png" width="9" height="9">'
    body += '<tag label="stop" source="manual"></tag></image></annotations>'
    with zipfile.ZipFile(tmp_path / "job.zip", "w") as archive:
        archive.writestr("annotations.xml", body)
    (heard,) = FORMATS["cvat"].read(tmp_path / "job.zip", "class")
    assert (heard.item, heard.value) == (ITEM, ClassValue("stop"))


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ("<annotations><image", "class", "not well-formed|unclosed"),
        ("<other/>", "class", "expected <annotations>"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "class", "document type"),
        ('<annotations><image name="cat.png"/></annotations>', "class", "has no SHA-256"),
        (f'<annotations><image name="{ITEM}.png"><tag/></image></annotations>', "class", "without 'label'"),
        (
            f'<annotations><image name="{ITEM}.png"><tag label="a"/><tag label="b"/></image></annotations>',
            "class",
            "has 2 tags",
        ),
        (
            f'<annotations><image name="{ITEM}.png"><box label="a" xtl="9" ytl="0" xbr="1" ybr="1"/>'
            "</image></annotations>",
            "boxes",
            "no area",
        ),
        (
            f'<annotations><image name="{ITEM}.png"><box label="a" xtl="nan" ytl="0" xbr="1" ybr="1"/></image>'
            "</annotations>",
            "boxes",
            "field 'xtl'",
        ),
        (
            f'<annotations><image name="{ITEM}.png"><polygon label="a"/></image></annotations>',
            "boxes",
            "only boxes are read",
        ),
        (
            f'<annotations><image name="{ITEM}.png"><tag label="a"/></image><track id="1"/></annotations>',
            "class",
            "for images",
        ),
        (
            f"<annotations>{f'<image name={chr(34)}{ITEM}.png{chr(34)}><tag label={chr(34)}a{chr(34)}/></image>' * 2}"
            "</annotations>",
            "class",
            "twice",
        ),
    ],
)
def test_what_cvat_cannot_have_meant_is_named(tmp_path: Path, body: str, kind: Kind, message: str) -> None:
    path = tmp_path / "annotations.xml"
    path.write_text(body, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        FORMATS["cvat"].read(path, kind)


def studio(tmp_path: Path, result: object, **annotation: object) -> Path:
    path = tmp_path / "tasks.json"
    found = {"result": result, **annotation}
    path.write_text(json.dumps([{"id": 5, "data": {"image": f"/up/1f-{ITEM}.png"}, "annotations": [found]}]))
    return path


def choice(*names: str) -> dict[str, object]:
    return {"type": "choices", "from_name": "label", "to_name": "image", "value": {"choices": list(names)}}


def test_label_studio_answers_are_their_authors_and_skipped_ones_are_none(tmp_path: Path) -> None:
    read = FORMATS["label-studio"].read
    (heard,) = read(studio(tmp_path, [choice("stop")], completed_by=3), "class")
    assert (heard.item, heard.value, heard.by) == (ITEM, ClassValue("stop"), "label-studio user 3")
    assert read(studio(tmp_path, [choice("stop")], was_cancelled=True), "class") == []
    assert read(studio(tmp_path, []), "class") == []


def test_label_studio_predictions_are_nobodys_answers(tmp_path: Path) -> None:
    file = FORMATS["label-studio"].write(tmp_path, Sheet("traffic-sign", "class", CLASSES, asked([ClassValue("stop")])))
    assert FORMATS["label-studio"].read(file, "class") == []


_RECTANGLE = {"type": "rectanglelabels", "original_width": 100, "original_height": 100}


@pytest.mark.parametrize(
    ("result", "kind", "message"),
    [
        ([choice("a", "b")], "class", "task 5: 2 choices"),
        ([choice("a"), choice("rainy", "foggy") | {"from_name": "weather"}], "class", "task 5: 2 choices"),
        (
            [_RECTANGLE | {"value": {"rectanglelabels": ["a"], "x": 1, "y": 1, "width": 0, "height": 1}}],
            "boxes",
            "task 5",
        ),
        ([_RECTANGLE | {"value": {"rectanglelabels": ["a"], "rotation": 9}}], "boxes", "rotated"),
        ([{"type": "rectanglelabels", "value": {"rectanglelabels": ["a"]}}], "boxes", "original_width"),
        ({"not": "a list"}, "class", "export the project as 'JSON'"),
    ],
)
def test_what_label_studio_cannot_have_meant_is_named(tmp_path: Path, result: object, kind: Kind, message: str) -> None:
    with pytest.raises(DataError, match=message):
        FORMATS["label-studio"].read(studio(tmp_path, result), kind)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sha256,class\n", "columns"),
        ("sha256,label\nabc,14\n", "line 2: field 'sha256'"),
        (f"sha256,label\n{ITEM},1\n{ITEM},2\n", "line 3: abababababab"),
        ("", "columns"),
    ],
)
def test_bad_lines_of_a_csv_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        FORMATS["csv"].read(tmp_path / "labels.csv", "class")


def test_the_nearest_format_is_named() -> None:
    with pytest.raises(NotFoundError, match="label-studio"):
        get_format("labelstudio")
