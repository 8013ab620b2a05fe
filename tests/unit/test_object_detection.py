"""object-detection on board, in `infer` and in its evaluation, with made detectors on made objects."""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from roadloop_agent.cli import main
from roadloop_agent.config import CaptureTable, SlotTable, load_profile
from roadloop_agent.drive.frames import Frame
from roadloop_agent.drive.handlers.object_detection import DetectionHandler
from roadloop_agent.drive.pipeline import Model, load_model
from roadloop_models.bundle import Bundle
from roadloop_models.contract.columns import decode_columns, encode_columns
from roadloop_models.contract.streams import DETECTION
from roadloop_models.errors import BundleError, ConfigError, DataError, ModelInputError
from roadloop_models.preprocess import ImageArray
from roadloop_models.runners import open_runner
from roadloop_models.tasks import get_task
from roadloop_models.tasks.object_data import write_made_objects
from tests.fakes.detector_files import fastestdet_file, rows_file
from tests.fakes.imports import imported_detector


class Quiet:
    """A slot with room for captures, which drops two frames."""

    frames, dropped = 1, 2

    def may_capture(self) -> bool:
        return True


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return imported_detector(fastestdet_file(tmp_path_factory.mktemp("theirs") / "theirs.onnx"))


@pytest.fixture
def model(bundle: Bundle) -> Iterator[Model]:
    with contextlib.closing(load_model(bundle.directory, "onnx-fp32")) as opened:
        yield opened


def handler(capture: CaptureTable | None = None, **settings: object) -> DetectionHandler:
    return DetectionHandler(
        SlotTable(
            task="object-detection",
            runtime="onnx",
            precision="fp32",
            source="camera",
            rate_hz=5.0,
            capture=capture or CaptureTable(),
            settings=settings,
        )
    )


def blocks(*places: tuple[int, int, int]) -> ImageArray:
    """A grey image of 128x128 with blocks of 32x32: (row, column, class)."""
    image = np.full((128, 128, 3), 128, dtype=np.uint8)
    for row, column, index in places:
        image[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32] = 20
        image[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32, index] = 230
    return image


def named(row: list[float]) -> dict[str, float]:
    return dict(zip((field.name for field in DETECTION.fields), row, strict=True))


def test_a_frame_becomes_counts_scores_and_boxes_in_its_own_pixels(model: Model) -> None:
    outcome = handler().handle(Frame(7, 0.0, 0, blocks((0, 1, 0), (2, 3, 1), (3, 0, 1))), model, Quiet())
    ((stream, row),) = outcome.rows
    sample = named(row)
    assert stream is DETECTION and outcome.decided and outcome.latency_us > 0
    assert (sample["item"], sample["objects"], sample["dropped"], sample["captured"]) == (7, 3, 2, 0)
    assert (sample["count_0"], sample["count_1"]) == (1, 2) and math.isnan(sample["count_2"])
    assert 0.9 < sample["least_score"] <= sample["best_score"] <= 1
    assert outcome.confidence is not None and 0.9 < outcome.confidence <= 1
    assert outcome.decision is not None
    found = outcome.decision()["detections"]
    assert json.dumps(found)
    boxes = {(line["label"], *line["box"]) for line in found}
    assert boxes == {
        ("red block", 32, 0, 64, 32),
        ("green block", 96, 64, 128, 96),
        ("green block", 0, 96, 32, 128),
    }


def test_an_empty_road_is_a_decision_too_and_survives_the_wire(model: Model) -> None:
    outcome = handler().handle(Frame(1, 0.0, 0, blocks()), model, Quiet())
    sample = named(outcome.rows[0][1])
    assert outcome.decided and outcome.confidence is None and sample["objects"] == 0 == sample["count_0"]
    assert math.isnan(sample["best_score"]) and math.isnan(sample["best_class_id"])
    assert outcome.decision is not None and outcome.decision() == {"detections": []}
    sent = decode_columns(encode_columns(DETECTION.fields, [0], [outcome.rows[0][1]]))
    assert sent.values[0, 1] == 0 and math.isnan(sent.values[0, 3])


def test_counted_labels_are_those_of_the_settings_and_must_be_the_models(model: Model) -> None:
    outcome = handler(counted=["green block"]).handle(Frame(1, 0.0, 0, blocks((0, 0, 0), (1, 1, 1))), model, Quiet())
    sample = named(outcome.rows[0][1])
    assert sample["count_0"] == 1 and math.isnan(sample["count_1"])
    with pytest.raises(ConfigError, match=r"settings\.counted: 'bus' is no label of .* it has red block, green block"):
        handler(counted=["bus"]).handle(Frame(1, 0.0, 0, blocks()), model, Quiet())


def test_a_frame_with_an_unsure_object_is_worth_sending(model: Model) -> None:
    unsure = CaptureTable(below_confidence=0.999)
    assert handler(unsure).handle(Frame(1, 0.0, 0, blocks((0, 0, 0))), model, Quiet()).capture
    assert not handler(unsure).handle(Frame(1, 0.0, 0, blocks()), model, Quiet()).capture
    assert not handler().handle(Frame(1, 0.0, 0, blocks((0, 0, 0))), model, Quiet()).capture


def test_without_a_model_nothing_is_decided_and_no_image_is_an_error(model: Model) -> None:
    assert not handler().handle(Frame(1, 0.0, 0, blocks()), None, Quiet()).decided
    with pytest.raises(ModelInputError, match="expected uint8 RGB"):
        handler().handle(Frame(1, 0.0, 0, np.zeros((4, 4, 4), np.uint8)), model, Quiet())


def test_a_swap_to_a_model_with_other_labels_counts_those(tmp_path: Path, model: Model) -> None:
    other = imported_detector(rows_file(tmp_path / "other.onnx", decoded=False), version="theirs-2")
    slot = handler()
    slot.handle(Frame(1, 0.0, 0, blocks((0, 0, 0))), model, Quiet())
    with contextlib.closing(load_model(other.directory, "onnx-fp32")) as second:
        sample = named(slot.handle(Frame(2, 0.0, 0, blocks((0, 0, 0), (2, 2, 1))), second, Quiet()).rows[0][1])
    assert (sample["objects"], sample["count_0"], sample["count_1"]) == (2, 1, 1)


def test_a_model_whose_shapes_do_not_fit_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    bundle = imported_detector(fastestdet_file(tmp_path / "theirs.onnx"))
    manifest = bundle.directory / "manifest.json"
    written = manifest.read_text()
    assert '"height": 64' in written
    manifest.write_text(written.replace('"height": 64', '"height": 32'))
    with pytest.raises(BundleError, match=r"onnx-fp32: inputs are .*64, 64.*preprocessing makes \(1, 3, 32, 64\)"):
        load_model(bundle.directory, "onnx-fp32")
    manifest.write_text(written.replace('"name": "fastestdet"', '"name": "yolox"'))
    with pytest.raises(BundleError, match=r"outputs are .*; yolox with 2 labels takes one output \[1, 84, 7\]"):
        load_model(bundle.directory, "onnx-fp32")


def test_a_profile_may_ask_for_it_and_its_settings_are_strict(tmp_path: Path) -> None:
    text = """
hardware = "test"
[sources.camera]
kind = "images"
path = "."
[slots.objects]
task = "object-detection"
runtime = "onnx"
precision = "fp32"
source = "camera"
rate_hz = 5.0
[slots.objects.settings]
counted = ["car", "truck"]
"""
    (tmp_path / "profile.toml").write_text(text)
    assert load_profile(tmp_path / "profile.toml").slots["objects"].settings == {"counted": ["car", "truck"]}
    (tmp_path / "profile.toml").write_text(text.replace("counted", "count"))
    with pytest.raises(ConfigError, match=r"slots\.objects\.settings: count: unknown key; did you mean 'counted'"):
        load_profile(tmp_path / "profile.toml")


# Evaluation


def test_the_figure_is_of_the_drawn_classes_that_the_model_knows(tmp_path: Path, bundle: Bundle) -> None:
    task = get_task("object-detection")
    write_made_objects(tmp_path, seed=2)
    annotations = tmp_path / "objects" / "annotations.json"
    coco = json.loads(annotations.read_text())
    with contextlib.closing(open_runner(bundle, bundle.variant())) as runner:
        evaluation = task.evaluate(bundle, bundle.variant(), runner, tmp_path)
        assert evaluation.metrics == {"map50": 1.0, "objects": len(coco["annotations"])} and evaluation.rows == 12
        coco["categories"][1]["name"] = "tree"
        annotations.write_text(json.dumps(coco))
        fewer = task.evaluate(bundle, bundle.variant(), runner, tmp_path).metrics
        assert fewer["map50"] == 1.0 and 0 < fewer["objects"] < evaluation.metrics["objects"]
        coco["categories"][0]["name"] = "bush"
        annotations.write_text(json.dumps(coco))
        with pytest.raises(DataError, match="categories are bush, tree; the model knows red block, green block"):
            task.evaluate(bundle, bundle.variant(), runner, tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"annotations": [{"image_id": 99, "category_id": 1, "bbox": [0, 0, 1, 1]}]}, r"annotations\[0\]: its image"),
        ({"images": []}, r"\$\.images"),
        ({"categories": [{"id": 1}]}, "name"),
        ({"images": [{"id": 0, "file_name": "../../etc/passwd"}]}, "file_name"),
        ({"images": [{"id": 0, "file_name": "gone.png"}]}, "gone.png: missing, or not an image"),
    ],
)
def test_broken_annotations_are_refused_by_file_and_field(
    tmp_path: Path, bundle: Bundle, change: dict[str, object], says: str
) -> None:
    write_made_objects(tmp_path, seed=2)
    annotations = tmp_path / "objects" / "annotations.json"
    annotations.write_text(json.dumps(json.loads(annotations.read_text()) | {"annotations": []} | change))
    with (
        contextlib.closing(open_runner(bundle, bundle.variant())) as runner,
        pytest.raises(DataError, match=says),
    ):
        get_task("object-detection").evaluate(bundle, bundle.variant(), runner, tmp_path)


# infer


def infer(bundle: Bundle, source: Path, output: Path, *more: str) -> Result:
    args = ["infer", "--bundle", str(bundle.directory), "--input", str(source), "--output", str(output), *more]
    return CliRunner().invoke(main, args)


def write_clip(path: Path) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (128, 128))
    for column in range(4):
        writer.write(cv2.cvtColor(blocks((1, column, 0)), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def test_infer_writes_a_line_a_frame_and_a_clip_that_shows_the_boxes(tmp_path: Path, bundle: Bundle) -> None:
    clip = write_clip(tmp_path / "clip.avi")
    done = infer(bundle, clip, tmp_path / "out.jsonl", "--annotate", str(tmp_path / "shown.mp4"))
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [0, 1, 2, 3] and lines[0]["input"].endswith("clip.avi#0")
    assert [line["detections"][0]["box"] for line in lines] == [[32.0 * n, 32, 32.0 * n + 32, 64] for n in range(4)]
    assert {line["detections"][0]["label"] for line in lines} == {"red block"}
    shown = cv2.VideoCapture(str(tmp_path / "shown.mp4"))
    assert (shown.get(cv2.CAP_PROP_FRAME_COUNT), shown.get(cv2.CAP_PROP_FPS)) == (4, 10)
    _, first = shown.read()
    plain = cv2.cvtColor(blocks((1, 0, 0)), cv2.COLOR_RGB2BGR).astype(int)
    changed = np.abs(first.astype(int) - plain).sum(axis=2) > 60
    assert changed[32:64, 0:32].any() and changed[26:34, 0:60].any() and not changed[80:, 80:].any()
    assert {path.name for path in tmp_path.iterdir()} == {"clip.avi", "out.jsonl", "shown.mp4"}


@pytest.mark.parametrize(
    ("clip", "says"), [("shown.gif", "an annotated clip is an .mp4"), ("gone/shown.mp4", "there is no folder")]
)
def test_a_clip_that_cannot_be_written_is_refused(tmp_path: Path, bundle: Bundle, clip: str, says: str) -> None:
    source = write_clip(tmp_path / "clip.avi")
    refused = infer(bundle, source, tmp_path / "out.jsonl", "--annotate", str(tmp_path / clip))
    assert refused.exit_code == 2 and says in refused.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_images_of_different_sizes_make_no_clip_but_lines(tmp_path: Path, bundle: Bundle) -> None:
    for name, size in (("a.png", 128), ("b.png", 64)):
        cv2.imwrite(str(tmp_path / name), blocks((0, 0, 1))[:size, :size, ::-1])
    done = infer(bundle, tmp_path, tmp_path / "out.jsonl")
    assert done.exit_code == 0 and len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
    refused = infer(bundle, tmp_path, tmp_path / "again.jsonl", "--annotate", str(tmp_path / "shown.mp4"))
    assert refused.exit_code == 2 and "needs images of one size" in refused.stderr
    assert not (tmp_path / "shown.mp4").exists() and not list(tmp_path.glob(".*"))
