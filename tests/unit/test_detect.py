"""Detection: bringing images in, decoding what comes out, suppressing doubles, boxes back in pixels of the image."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_models.bundle import Bundle, Postprocess
from roadloop_models.detect import NOTHING, Detections, ImageLetterbox, build_detector, open_detector
from roadloop_models.detect.average_precision import average_precision, matches
from roadloop_models.detect.decode import DECODERS, Decoder, Params, build_decoder, yolo_cells
from roadloop_models.detect.nms import FEW, MAX_CANDIDATES, iou, suppress
from roadloop_models.errors import BundleError, FailedError, ModelInputError
from roadloop_models.preprocess import FloatArray, build_preprocess
from tests.fakes.detector_files import fastestdet_file
from tests.fakes.imports import imported_detector

LABELS = ("car", "person", "dog")


# Images in, boxes back


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_a_pixel_becomes_scale_mean_and_std_in_the_models_own_order(layout: str, order: str) -> None:
    image = np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.25, 2.0]
    letterbox = ImageLetterbox(6, 8, layout=layout, order=order, scale=1 / 255, mean=mean, std=std)
    (tensor,) = letterbox(image)
    channels = image if order == "rgb" else image[:, :, ::-1]
    expected = (channels / 255.0 - mean) / std
    assert tensor.dtype == np.float32 and tensor.shape == letterbox.input_shape and tensor.flags.c_contiguous
    np.testing.assert_allclose(tensor[0] if layout == "nhwc" else tensor[0].transpose(1, 2, 0), expected, atol=1e-6)
    low, high = letterbox.input_range
    assert low == pytest.approx(-0.8) and high == pytest.approx(3.2)


@pytest.mark.parametrize(("fit", "rows"), [("corner", (0, 4)), ("center", (2, 6))])
def test_a_wide_image_keeps_its_ratio_and_is_padded(fit: str, rows: tuple[int, int]) -> None:
    image = np.full((10, 20, 3), 200, dtype=np.uint8)
    (tensor,) = ImageLetterbox(8, 8, fit=fit, pad=7)(image)
    inside = np.zeros((8, 8), dtype=bool)
    inside[rows[0] : rows[1]] = True
    assert (tensor[0][:, inside] == 200).all() and (tensor[0][:, ~inside] == 7).all()
    (stretched,) = ImageLetterbox(8, 8, fit="stretch")(image)
    assert (stretched == 200).all()


def test_nothing_remains_of_an_image_of_another_size() -> None:
    letterbox = ImageLetterbox(8, 8, fit="center", pad=7)
    tall, wide = np.full((20, 10, 3), 250, np.uint8), np.full((10, 20, 3), 90, np.uint8)
    first = letterbox(wide)[0]
    letterbox(tall)
    np.testing.assert_array_equal(letterbox(wide)[0], first)


@given(
    st.sampled_from(["stretch", "corner", "center"]),
    st.tuples(st.integers(8, 700), st.integers(8, 700)),
    st.tuples(st.floats(0, 0.4), st.floats(0, 0.4), st.floats(0.5, 1), st.floats(0.5, 1)),
)
def test_boxes_come_back_to_where_they_were(fit: str, size: tuple[int, int], shares: tuple[float, ...]) -> None:
    height, width = size
    box = np.array([shares[0] * width, shares[1] * height, shares[2] * width, shares[3] * height], np.float32)
    placed = ImageLetterbox(64, 96, fit=fit).placement(height, width)
    scale = np.array([placed.width / width, placed.height / height] * 2, np.float32)
    shift = np.array([placed.left, placed.top] * 2, np.float32)
    there = Detections([(box * scale + shift).tolist()], [1.0], [0])
    np.testing.assert_allclose(placed.to_image(there).boxes[0], box, atol=0.01 * max(size))
    beyond = Detections([(-900, -900, 900, 900)], [1.0], [0])
    assert list(placed.to_image(beyond).boxes[0]) == [0, 0, width, height]


@pytest.mark.parametrize(
    "params",
    [
        {"height": 8, "width": 8, "layout": "hwc"},
        {"height": 8, "width": 8, "std": [1.0, 0.0, 1.0]},
        {"height": 8, "width": 8, "mean": [1.0]},
        {"height": 0, "width": 8},
        {"height": 8, "width": 8, "unknown": 1},
        {"height": 8},
    ],
)
def test_a_manifest_with_wrong_parameters_is_refused(params: dict[str, object]) -> None:
    from roadloop_models.bundle import Preprocess

    with pytest.raises(BundleError, match=r"manifest\.json: preprocess: params"):
        build_preprocess(Preprocess("image-letterbox", params))  # type: ignore[arg-type]


def test_the_spec_of_a_letterbox_makes_the_same_letterbox() -> None:
    letterbox = ImageLetterbox(8, 12, layout="nhwc", order="bgr", fit="center", scale=0.5, mean=[1, 2, 3], pad=9)
    again = build_preprocess(letterbox.spec)
    image = np.random.default_rng(2).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    np.testing.assert_array_equal(again(image)[0], letterbox(image)[0])


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ModelInputError, match=r"expected uint8 RGB \[height, width, 3\]"):
        ImageLetterbox(8, 8)(image)


# Suppression


def greedy(found: Detections, max_iou: float) -> Detections:
    """The textbook's loop."""
    kept: list[int] = []
    corners = found.corners
    for index in sorted(range(len(found)), key=lambda place: -found.scores[place])[:MAX_CANDIDATES]:
        if found.scores[index] < 0.4:
            continue
        mine = corners[index : index + 1]
        if all(
            found.classes[other] != found.classes[index] or iou(mine, corners[other : other + 1])[0, 0] <= max_iou
            for other in kept
        ):
            kept.append(index)
    return found.take(kept)


@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.sampled_from([0.2, 0.45, 0.7]))
def test_suppression_is_greedy_suppression(seed: int, count: int, max_iou: float) -> None:
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 60, (count, 2))
    boxes = np.concatenate((corners, corners + random.uniform(5, 40, (count, 2))), axis=1).astype(np.float32)
    scores = random.choice([0.3, 0.5, 0.7, 0.9], count).astype(np.float32)
    found = Detections.of_arrays(boxes, scores, random.integers(0, 2, count))
    ours, textbook = suppress(found, max_iou, 0.4), greedy(found, max_iou)
    assert (ours.boxes, ours.scores, ours.classes) == (textbook.boxes, textbook.scores, textbook.classes)


def test_a_chain_of_overlaps_keeps_every_other_box() -> None:
    boxes = [(10.0 * step, 0, 10.0 * step + 20, 10) for step in range(9)]  # each overlaps the next by a third
    found = Detections(boxes, [0.9 - 0.01 * step for step in range(9)], [0] * 9)
    assert [box[0] for box in suppress(found, 0.3).boxes] == [0, 20, 40, 60, 80]


def test_overlap_is_intersection_over_union() -> None:
    boxes = np.array([[0, 0, 10, 10]], np.float32)
    others = np.array([[5, 0, 15, 10], [20, 20, 30, 30], [0, 0, 10, 10], [3, 3, 3, 3]], np.float32)
    np.testing.assert_allclose(iou(boxes, others), [[1 / 3, 0, 1, 0]])


# Decoding: outputs are written from known boxes, by the formulas of the projects


def yolox_outputs(boxes: list[tuple[float, ...]], score: float) -> tuple[FloatArray, ...]:
    origins, steps = yolo_cells(64, 64, (8, 16, 32))
    output = np.zeros((1, len(steps), 5 + len(LABELS)), np.float32)
    for index, (x1, y1, x2, y2) in enumerate(boxes):
        cell = 64 + index * 5  # of stride 16
        centre, size = np.array([(x1 + x2) / 2, (y1 + y2) / 2]), np.array([x2 - x1, y2 - y1])
        output[0, cell, :2] = centre / steps[cell] - origins[cell]
        output[0, cell, 2:4] = np.log(size / steps[cell])
        output[0, cell, 4], output[0, cell, 5 + index] = 0.9, score / 0.9
    return (output,)


def fastestdet_outputs(boxes: list[tuple[float, ...]], score: float) -> tuple[FloatArray, ...]:
    output = np.zeros((1, 5 + len(LABELS), 4, 4), np.float32)
    for index, (x1, y1, x2, y2) in enumerate(boxes):
        row, column = int((y1 + y2) / 2 // 16), int((x1 + x2) / 2 // 16)
        output[0, 0, row, column] = output[0, 5 + index, row, column] = score
        output[0, 1, row, column] = np.arctanh((x1 + x2) / 2 / 16 - column)
        output[0, 2, row, column] = np.arctanh((y1 + y2) / 2 / 16 - row)
        shares = np.array([x2 - x1, y2 - y1]) / 64
        output[0, 3:5, row, column] = np.log(shares / (1 - shares))
    return (output,)


def yolo_outputs(boxes: list[tuple[float, ...]], score: float) -> tuple[FloatArray, ...]:
    rows = np.zeros((1, 84, 4 + len(LABELS)), np.float32)
    for index, (x1, y1, x2, y2) in enumerate(boxes):
        rows[0, 7 * index, :4] = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
        rows[0, 7 * index, 4 + index] = score
    return (np.ascontiguousarray(rows.transpose(0, 2, 1)),)


def boxes_outputs(boxes: list[tuple[float, ...]], score: float) -> tuple[FloatArray, ...]:
    rows = np.zeros((9, 6), np.float32)
    for index, box in enumerate(boxes):
        rows[index] = (*(edge / 64 for edge in box), score, index)
    return (rows,)


def ssd_outputs(boxes: list[tuple[float, ...]], score: float) -> tuple[FloatArray, ...]:
    corners, classes, scores = (
        np.zeros((1, 9, 4), np.float32),
        np.zeros((1, 9), np.float32),
        np.full((1, 9), 0.99, np.float32),
    )
    for index, (x1, y1, x2, y2) in enumerate(boxes):
        corners[0, index], classes[0, index], scores[0, index] = np.array([y1, x1, y2, x2]) / 64, index, score
    return (corners, classes, scores, np.array([len(boxes)], np.float32))


LAYOUTS: dict[str, tuple[Params, Callable[[list[tuple[float, ...]], float], tuple[FloatArray, ...]]]] = {
    "yolox": ({}, yolox_outputs),
    "fastestdet": ({}, fastestdet_outputs),
    "yolo": ({"layout": "columns", "objectness": 0}, yolo_outputs),
    "boxes": ({"unit": "normalized"}, boxes_outputs),
    "ssd": ({}, ssd_outputs),
}
BOXES: list[tuple[float, ...]] = [(4.0, 6.0, 20.0, 30.0), (30.0, 33.0, 50.0, 61.0), (41.0, 2.0, 63.0, 12.0)]


@pytest.mark.parametrize("name", DECODERS)
def test_known_boxes_come_out_as_they_were_put_in(name: str) -> None:
    params, outputs = LAYOUTS[name]
    decoder: Decoder = build_decoder(Postprocess(name, {**params, "min_score": 0.5}), 64, 64)
    written = outputs(BOXES, 0.8)
    assert decoder.misfit([array.shape for array in written], len(LABELS)) is None
    found = decoder(written)
    order = np.argsort(found.classes)
    np.testing.assert_allclose(found.corners[order], BOXES, atol=1e-3)
    np.testing.assert_allclose(found.scores, 0.8, rtol=1e-5)
    assert sorted(found.classes) == [0, 1, 2]
    detector = build_detector(Postprocess(name, {**params, "min_score": 0.5}), ImageLetterbox(64, 64), LABELS)
    assert len(detector(written, 64, 64)) == 3
    assert len(detector(outputs(BOXES, 0.4), 64, 64)) == len(detector(outputs([], 0.9), 64, 64)) == 0


@pytest.mark.parametrize("name", DECODERS)
def test_answers_that_are_not_finite_are_a_failure_and_not_an_empty_road(name: str) -> None:
    params, outputs = LAYOUTS[name]
    detector = build_detector(Postprocess(name, {**params, "min_score": 0.5}), ImageLetterbox(64, 64), LABELS)
    written = outputs(BOXES, 0.8)
    for array in written[:3]:
        array[:] = np.nan
    with pytest.raises(FailedError, match="not finite"):
        detector(written, 64, 64)


def test_class_probabilities_below_zero_are_a_failure_and_no_detection() -> None:
    detector = build_detector(Postprocess("fastestdet", {"min_score": 0.5}), ImageLetterbox(64, 64), LABELS)
    (cells,) = fastestdet_outputs(BOXES, 0.8)
    cells[:, 5:] = -0.9
    with pytest.raises(FailedError, match="scores that are not finite"):
        detector((cells,), 64, 64)


@pytest.mark.parametrize("count", [1, FEW + 1])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_one_score_that_is_no_number_is_a_failure(wrong: float, count: int) -> None:
    scores = [0.9] * count
    scores[count // 2] = wrong
    with pytest.raises(FailedError, match="scores that are not finite"):
        suppress(Detections([(0, 0, 5, 5)] * count, scores, [0] * count), 0.5, 0.4)


@pytest.mark.parametrize("name", DECODERS)
def test_outputs_of_another_shape_do_not_fit(name: str) -> None:
    params, outputs = LAYOUTS[name]
    decoder = build_decoder(Postprocess(name, {**params, "min_score": 0.5}), 64, 64)
    shapes = [array.shape for array in outputs(BOXES, 0.8)]
    assert decoder.misfit([(1, 43)], len(LABELS)) is not None
    assert decoder.misfit([*shapes, (1, 2)], len(LABELS)) is not None
    if name in ("yolox", "fastestdet", "yolo"):  # the others say nothing of how many classes there are
        assert decoder.misfit(shapes, len(LABELS) + 1) is not None


@pytest.mark.parametrize(
    ("postprocess", "says"),
    [
        (Postprocess("detr"), "no function 'detr'; this version has fastestdet, yolox"),
        (Postprocess("yolox", {"min_score": 0.0}), "min_score is 0"),
        (Postprocess("yolox", {"max_iou": 2}), "max_iou is 2"),
        (Postprocess("yolox", {"threshold": 0.5}), "threshold"),
        (Postprocess("yolo", {"layout": "diagonal"}), "diagonal"),
        (Postprocess("boxes", {"unit": "cm"}), "cm"),
        (Postprocess("ssd", {"boxes": 1}), "0, 1, 2 and 3 in some order"),
    ],
)
def test_a_manifest_with_wrong_decoding_is_refused(postprocess: Postprocess, says: str) -> None:
    with pytest.raises(BundleError, match=says):
        build_detector(postprocess, ImageLetterbox(64, 64), LABELS)


def test_a_detector_answers_in_pixels_of_the_image_best_first() -> None:
    detector = build_detector(
        Postprocess("boxes", {"unit": "normalized"}), ImageLetterbox(64, 64, fit="corner"), LABELS
    )
    rows = boxes_outputs([(0, 0, 16, 16), (1, 1, 17, 17), (0, 0, 32, 32)], 0.6)[0]
    rows[1, 4:] = 0.9, 0  # the same object twice, the second time surer
    found = detector((rows,), 128, 64)  # half the size in both directions
    assert found.scores == pytest.approx([0.9, 0.6]) and list(found.classes) == [0, 2]
    np.testing.assert_allclose(found.corners, [(2, 2, 34, 34), (0, 0, 64, 64)])
    assert detector(boxes_outputs([], 0.9), 128, 64) is NOTHING or len(detector(boxes_outputs([], 0.9), 128, 64)) == 0


@pytest.mark.parametrize("index", [-1, 3])
def test_a_class_without_a_label_is_a_failure(index: int) -> None:
    detector = build_detector(Postprocess("boxes"), ImageLetterbox(64, 64), LABELS)
    rows = np.zeros((2, 6), np.float32)
    rows[0] = 0, 0, 9, 9, 0.9, index
    with pytest.raises(FailedError, match="a class beyond the 3 labels"):
        detector((rows,), 64, 64)
    rows[0] = 0, 0, np.inf, 9, 0.9, 0
    with pytest.raises(FailedError, match="boxes that are not finite"):
        detector((rows,), 64, 64)


def test_a_bundle_whose_outputs_do_not_fit_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    bundle = imported_detector(fastestdet_file(tmp_path / "theirs.onnx"))
    letterbox = ImageLetterbox(64, 64)
    assert open_detector(bundle, letterbox).labels == ("red block", "green block")
    with pytest.raises(BundleError, match=r"onnx-fp32: inputs are .*64, 64.*preprocessing makes \(1, 3, 64, 32\)"):
        open_detector(bundle, ImageLetterbox(64, 32))
    (bundle.directory / "labels.txt").write_text("one\ntwo\nthree\n")
    with pytest.raises(BundleError, match=r"fastestdet with 3 labels takes one output \[1, 8, rows, columns\]"):
        open_detector(Bundle(bundle.directory, bundle.manifest, ""), letterbox)


# Average precision


def test_average_precision_of_a_hand_computed_example() -> None:
    truth = [Detections([(0, 0, 10, 10), (20, 20, 30, 30)], [1, 1], [0, 0]), Detections([(0, 0, 10, 10)], [1], [0])]
    found = [
        Detections(
            [(0, 0, 10, 10), (0, 1, 10, 11), (50, 50, 60, 60)], [0.9, 0.8, 0.6], [0, 0, 0]
        ),  # right, double, wrong
        Detections([(0, 0, 10, 10)], [0.7], [0]),
    ]
    # In the order of scores: right (1/1), wrong, right (2/3), wrong; one of three objects is never found.
    assert average_precision(found, truth, 0, 0.5) == pytest.approx((1 + 2 / 3) / 3)
    assert np.isnan(average_precision(found, truth, 1, 0.5))
    assert average_precision([NOTHING, NOTHING], truth, 0, 0.5) == 0.0


def test_a_box_is_taken_once_and_only_by_its_class() -> None:
    truth = Detections([(0, 0, 10, 10)], [1], [0])
    twice = Detections([(0, 0, 10, 10), (0, 0, 10, 10)], [0.5, 0.9], [0, 0])
    assert matches(twice, truth, 0.5).tolist() == [False, True]
    assert matches(Detections([(0, 0, 10, 10)], [0.9], [1]), truth, 0.5).tolist() == [False]
    assert matches(NOTHING, truth, 0.5).tolist() == []
