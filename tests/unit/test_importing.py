"""Anybody's model file: what is recognised, what is asked for, and the bundle that comes of it."""

import contextlib
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from roadloop_agent.drive.pipeline import load_model
from roadloop_cloud.cli import main
from roadloop_cloud.importing.choices import Choices
from roadloop_cloud.importing.layouts import Hints
from roadloop_cloud.importing.make import Imported, import_model
from roadloop_cloud.importing.quicken import SOFTMAX_NOTE
from roadloop_cloud.importing.request import ImportRequest
from roadloop_models.bundle import Bundle, Postprocess
from roadloop_models.bundle.golden import check_golden
from roadloop_models.errors import BundleError, ConfigError, DataError
from roadloop_models.runners import open_runner
from roadloop_models.tasks import get_task
from roadloop_models.tasks.object_data import write_made_objects
from roadloop_models.tasks.sign_classes import SIGN_LABELS
from tests.fakes.detector_files import (
    boxes_file,
    classifier_file,
    fastestdet_file,
    rows_file,
    ssd_file,
    write_labels,
)


def request(path: Path, **options: object) -> ImportRequest:
    labels = options.pop("labels", None) or write_labels(path.parent / "labels.txt")
    asked = {"task": "object-detection", "version": "theirs-1", "runtime": "onnx", "labels": labels} | options
    return ImportRequest(path=path, **asked)  # type: ignore[arg-type]


def imported(path: Path, **options: object) -> Imported:
    return import_model(request(path, **options), path.parent / "bundle", lambda text: None)


def map50(bundle: Bundle, data: Path) -> dict[str, float]:
    """The task's figure for every variant on made objects."""
    write_made_objects(data, seed=3)
    figures = {}
    for variant in bundle.manifest.variants:
        with contextlib.closing(open_runner(bundle, variant)) as runner:
            check_golden(bundle, variant, runner)
            task = get_task("object-detection")
            figures[variant.key] = task.evaluate(bundle, variant, runner, data).metrics["map50"]
    return figures


PLAIN = Choices(order="rgb", scale=1.0, fit="stretch")


@pytest.mark.parametrize(
    ("make", "choices", "postprocess", "why"),
    [
        (fastestdet_file, Choices(), {"name": "fastestdet"}, "4x4 cells"),
        (lambda path: rows_file(path, decoded=False), Choices(), {"name": "yolox"}, "offsets"),
        (
            lambda path: rows_file(path, decoded=True, pixel=1.0, order="rgb"),
            Choices(),
            {"name": "yolo", "layout": "rows", "objectness": 1, "unit": "pixels"},
            "they follow the cells",
        ),
        (
            lambda path: rows_file(
                path, decoded=True, objectness=False, columns=True, normalized=True, pixel=1.0, order="rgb"
            ),
            Choices(),
            {"name": "yolo", "layout": "columns", "objectness": 0, "unit": "normalized"},
            "84 cells",
        ),
        (ssd_file, Choices(), {"name": "ssd", "boxes": 1, "classes": 3, "scores": 0, "count": 2}, "four outputs"),
        (boxes_file, PLAIN, {"name": "boxes", "unit": "pixels"}, "rows of box"),
    ],
)
def test_known_layouts_are_recognised_and_find_every_block(
    tmp_path: Path, make: object, choices: Choices, postprocess: dict[str, object], why: str
) -> None:
    result = imported(make(tmp_path / "theirs.onnx"), choices=choices)  # type: ignore[operator]
    found = result.bundle.manifest.postprocess
    assert found is not None and found.name == postprocess.pop("name")
    assert {name: found.params[name] for name in postprocess} == postprocess
    (reason,) = [setting.source for setting in result.settings if setting.name == "outputs"]
    assert why in reason
    assert map50(result.bundle, tmp_path / "data") == {"onnx-fp32": 1.0}


def test_what_was_taken_for_granted_is_shown_and_can_be_overridden(tmp_path: Path) -> None:
    file = fastestdet_file(tmp_path / "theirs.onnx")
    shown = {setting.name: (setting.value, setting.source) for setting in imported(file).settings}
    assert shown["order"] == ("bgr", "usual for FastestDet")
    assert shown["fit"] == ("stretch", "usual for FastestDet")
    assert shown["min_score"] == (0.5, "default")
    (tmp_path / "again").mkdir()
    other = import_model(
        request(file, choices=Choices(order="rgb", min_score=0.3)), tmp_path / "again" / "bundle", lambda text: None
    )
    shown = {setting.name: (setting.value, setting.source) for setting in other.settings}
    assert shown["order"] == ("rgb", "--order") and shown["min_score"] == (0.3, "--min-score")
    assert map50(other.bundle, tmp_path / "data")["onnx-fp32"] < 0.6  # red is not seen as blue


def test_what_cannot_be_seen_is_asked_for_by_option(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--order rgb\|bgr and --scale NUMBER and --fit stretch"):
        imported(boxes_file(tmp_path / "theirs.onnx"))
    with pytest.raises(ConfigError, match="give --boxes pixels or --boxes normalized"):
        imported(boxes_file(tmp_path / "silent.onnx", silent=True), choices=PLAIN)
    with pytest.raises(ConfigError, match="scores and classes has the scores cannot be seen; name it with --scores"):
        imported(ssd_file(tmp_path / "ssd.onnx", silent=True))
    assert imported(ssd_file(tmp_path / "ssd.onnx", silent=True), hints=Hints(scores="scores"))
    with pytest.raises(ConfigError, match="--labels FILE is needed"):
        import_model(
            ImportRequest(path=tmp_path / "ssd.onnx", runtime="onnx", task="object-detection", version="v"),
            tmp_path / "other",
            lambda text: None,
        )


def test_open_dimensions_are_fixed_where_the_size_is_said(tmp_path: Path) -> None:
    file = fastestdet_file(tmp_path / "theirs.onnx", dynamic=True)
    with pytest.raises(ConfigError, match="its image size is open; give --size HEIGHTxWIDTH"):
        imported(file)
    result = imported(file, size=(64, 64))
    (variant,) = result.bundle.manifest.variants
    assert variant.inputs[0].shape == (1, 3, 64, 64) and variant.outputs[0].shape == (1, 7, 4, 4)
    assert "Open dimensions of the file were fixed" in result.bundle.path("MODEL_CARD.md").read_text()
    (tmp_path / "again").mkdir()
    with pytest.raises(ConfigError, match=r"--verbatim: .*open dimensions have to be fixed"):
        import_model(request(file, size=(64, 64), verbatim=True), tmp_path / "again" / "bundle", lambda text: None)
    assert map50(result.bundle, tmp_path / "data") == {"onnx-fp32": 1.0}


def test_what_the_runtime_is_slow_at_is_rewritten_unless_the_file_is_wanted_as_it_is(tmp_path: Path) -> None:
    file = fastestdet_file(tmp_path / "theirs.onnx")
    quick = imported(file)
    (tmp_path / "again").mkdir()
    same = import_model(request(file, verbatim=True), tmp_path / "again" / "bundle", lambda text: None)
    assert (quick.changes, same.changes) == ((SOFTMAX_NOTE,), ())
    assert SOFTMAX_NOTE in quick.bundle.path("MODEL_CARD.md").read_text()
    assert "--verbatim" in (same.bundle.manifest.lineage.command or "")
    stored, source = (result.bundle.path("model.fp32.onnx").read_bytes() for result in (quick, same))
    assert source == file.read_bytes() != stored
    found, expected = (result.bundle.path("golden.npz").read_bytes() for result in (quick, same))
    assert found == expected  # the same answers to the last bit


@pytest.mark.parametrize(
    ("make", "options", "says"),
    [
        (
            lambda path: rows_file(path, decoded=False),
            {"labels": ("a", "b", "c", "d")},
            r"a detector of 2 classes \(YOLOX or YOLOv5\) or 3 classes \(.*\); the labels are 4",
        ),
        (
            lambda path: classifier_file(path, 43, probabilities=False),
            {},
            "gives 'logits' float32 \\[1, 43\\]; that is no layout of a detector that is known here: one output",
        ),
        (fastestdet_file, {"task": "traffic-sign", "labels": SIGN_LABELS}, r"expected one output \[1, 43\]"),
        (lambda path: Path(path.write_text("no model") and path), {}, "ONNX Runtime does not load it"),
        (lambda path: path, {}, "No such file"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_what_was_found(
    tmp_path: Path, make: object, options: dict[str, object], says: str
) -> None:
    if "labels" in options:
        options = options | {"labels": write_labels(tmp_path / "labels.txt", options["labels"])}  # type: ignore[arg-type]
    with pytest.raises(DataError, match=says):
        imported(make(tmp_path / "theirs.onnx"), **options)  # type: ignore[operator]
    assert not (tmp_path / "bundle").exists() and not list(tmp_path.glob(".import-*"))


def test_a_classifier_of_signs_answers_logits_or_probabilities(tmp_path: Path) -> None:
    decisions = []
    for probabilities in (False, True):
        folder = tmp_path / str(probabilities)
        folder.mkdir()
        file = classifier_file(folder / "theirs.onnx", 43, probabilities=probabilities)
        result = import_model(
            ImportRequest(
                path=file, runtime="onnx", task="traffic-sign", version="v", choices=Choices(order="rgb", scale=1 / 255)
            ),
            folder / "bundle",
            lambda text: None,
        )
        expected = "probabilities" if probabilities else "logits"
        assert result.bundle.manifest.postprocess == Postprocess("classify", {"scores": expected})
        assert result.bundle.labels() == SIGN_LABELS
        with contextlib.closing(load_model(result.bundle.directory, "onnx-fp32")) as model:
            image = np.full((90, 70, 3), (200, 30, 90), dtype=np.uint8)
            decisions.append(model.postprocess(model.run(model.preprocess(image))))
    logits, shares = decisions
    assert logits.label == shares.label
    assert logits.confidence == pytest.approx(shares.confidence, rel=1e-4)
    assert logits.margin == pytest.approx(shares.margin, rel=1e-4)


def test_labels_of_a_task_with_fixed_classes_are_those(tmp_path: Path) -> None:
    file = classifier_file(tmp_path / "theirs.onnx", 43, probabilities=False)
    swapped = write_labels(tmp_path / "labels.txt", (SIGN_LABELS[1], SIGN_LABELS[0], *SIGN_LABELS[2:]))
    with pytest.raises(DataError, match="line 1: the classes of traffic-sign are fixed, 43 of them, and this one is"):
        imported(file, task="traffic-sign", labels=swapped)
    with pytest.raises(DataError, match="labels.txt: expected 1 to 10000 labels, one a line and none of them empty"):
        imported(file, labels=write_labels(tmp_path / "labels.txt", ("a", "", "b")))


def test_the_card_says_where_a_file_comes_from_or_that_nobody_knows(tmp_path: Path) -> None:
    file = fastestdet_file(tmp_path / "theirs.onnx")
    result = imported(file, verbatim=True)
    card = result.bundle.path("MODEL_CARD.md").read_text()
    assert hashlib.sha256(file.read_bytes()).hexdigest() in card
    assert result.bundle.path("model.fp32.onnx").read_bytes() == file.read_bytes()
    assert "Source: not said when it was imported: unknown." in card
    assert "Licence: not said when it was imported: unknown." in card
    assert str(tmp_path) not in card and str(tmp_path) not in (tmp_path / "bundle" / "manifest.json").read_text()
    (tmp_path / "LICENSE").write_text("Do as you like.\n")
    other = import_model(
        request(file, source="a friend", licence=tmp_path / "LICENSE", licence_name="Friendly-1.0"),
        tmp_path / "again",
        lambda text: None,
    )
    card = other.bundle.path("MODEL_CARD.md").read_text()
    assert "Source: a friend." in card and "Licence: Friendly-1.0 (`LICENSE.txt`)." in card
    assert other.bundle.path("LICENSE.txt").read_text() == "Do as you like.\n"


def test_calibration_images_make_an_int8_file_and_its_agreement(tmp_path: Path) -> None:
    write_made_objects(tmp_path / "data", seed=8)
    result = imported(fastestdet_file(tmp_path / "theirs.onnx"), calibrate=tmp_path / "data" / "objects")
    assert result.agreement is not None and result.agreement.images == 2
    assert result.agreement.value > 0.9 and result.agreement.decisions_fp32 > 0
    assert result.bundle.manifest.metrics["onnx-int8/agreement_with_fp32"] == pytest.approx(
        result.agreement.value, abs=1e-4
    )
    assert {variant.key: variant.quantizer for variant in result.bundle.manifest.variants} == {
        "onnx-fp32": None,
        "onnx-int8": "onnxruntime",
    }
    figures = map50(result.bundle, tmp_path / "other")
    assert figures["onnx-fp32"] == 1.0 and figures["onnx-int8"] > 0.9
    assert "On 2 held-back calibration images" in result.bundle.path("MODEL_CARD.md").read_text()


def test_calibration_from_a_video_and_what_is_no_calibration(tmp_path: Path) -> None:
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 64))
    for level in range(12):
        writer.write(np.full((64, 64, 3), 20 * level, dtype=np.uint8))
    writer.release()
    file = fastestdet_file(tmp_path / "theirs.onnx")
    result = imported(file, calibrate=clip)
    assert result.agreement is not None and result.agreement.images == 2
    (tmp_path / "few").mkdir()
    for wrong, says in ((tmp_path / "few", "0 images, calibration needs at least 10"), (file, "nor a video")):
        with pytest.raises(DataError, match=says):
            import_model(request(file, calibrate=wrong), tmp_path / "again", lambda text: None)
    with pytest.raises(ConfigError, match="is quantized already"):
        import_model(
            request(tmp_path / "bundle" / "model.int8.onnx", calibrate=clip), tmp_path / "again", lambda text: None
        )


def test_a_tflite_classifier_tells_its_scale_itself(tmp_path: Path) -> None:
    from roadloop_models.packaged import packaged_bundles

    file = packaged_bundles()["traffic-sign"] / "model.int8.tflite"
    result = import_model(
        ImportRequest(path=file, runtime="tflite", task="traffic-sign", version="v", choices=Choices(order="rgb")),
        tmp_path / "bundle",
        lambda text: None,
    )
    (variant,) = result.bundle.manifest.variants
    assert variant.key == "tflite-int8" and variant.inputs[0].quantization is not None
    pixels = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    (tensor,) = get_task("traffic-sign").preprocessor(result.bundle.manifest)(pixels)
    quantization = variant.inputs[0].quantization
    stored = np.rint(tensor / quantization.scale) + quantization.zero_point
    np.testing.assert_array_equal(stored[0], pixels.astype(int) - 128)
    with pytest.raises(ConfigError, match="only ONNX files are quantized here"):
        import_model(
            ImportRequest(path=file, runtime="tflite", task="traffic-sign", version="v", calibrate=tmp_path),
            tmp_path / "again",
            lambda text: None,
        )


def test_a_bundle_is_not_written_over_and_other_tasks_are_not_imported(tmp_path: Path) -> None:
    file = fastestdet_file(tmp_path / "theirs.onnx")
    imported(file)
    with pytest.raises(BundleError, match="exists already"):
        imported(file)
    with pytest.raises(
        ConfigError, match="'traffic-speed' cannot be imported from a file; these can: object-detection"
    ):
        import_model(request(file, task="traffic-speed"), tmp_path / "again", lambda text: None)


# By the command line


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["models", "import", *args], catch_exceptions=False)


def test_without_a_workspace_the_bundle_alone_is_written(tmp_path: Path) -> None:
    file, labels = fastestdet_file(tmp_path / "theirs.onnx"), write_labels(tmp_path / "labels.txt")
    asked = ["--onnx", str(file), "--task", "object-detection", "--labels", str(labels), "--version", "theirs-1"]
    with contextlib.chdir(tmp_path):
        done = run(*asked, "--output", str(tmp_path / "bundle"), "--json")
        assert done.exit_code == 0, done.output
        answer = json.loads(done.stdout)
        assert answer["registered"] is False and answer["variants"].keys() == {"onnx-fp32"}
        assert {setting["name"] for setting in answer["settings"]} >= {"order", "scale", "fit", "outputs"}
        assert Bundle.open(tmp_path / "bundle").manifest_sha256 == answer["manifest_sha256"]
        refused = run(*asked)
        assert refused.exit_code == 2 and "it is no workspace" in refused.stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "give one of: SOURCE (a bundle), --onnx FILE, --tflite FILE"),
        (["--onnx", "FILE", "--tflite", "FILE"], "give one of"),
        (["--onnx", "FILE", "--version", "v"], "--task is needed"),
        (["--onnx", "FILE", "--task", "object-detection"], "--version is needed"),
        (["FILE", "--order", "rgb"], "--order: only for --onnx and --tflite"),
        (["--onnx", "FILE", "--size", "64"], "no HEIGHTxWIDTH"),
        (["--onnx", "FILE", "--mean", "1,2"], "neither a number nor three"),
    ],
)
def test_bad_options_are_refused_with_exit_code_2(tmp_path: Path, args: list[str], says: str) -> None:
    file = fastestdet_file(tmp_path / "theirs.onnx")
    result = run(*(str(file) if word == "FILE" else word for word in args))
    assert result.exit_code == 2 and says in result.stderr
