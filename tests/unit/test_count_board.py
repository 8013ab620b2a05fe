"""vehicle-count on board: frames in, telemetry rows and decisions out; settings; swaps; what breaks."""

from typing import Any, cast

import numpy as np
import pytest

from roadloop_agent.config import SlotTable
from roadloop_agent.drive.frames import Frame
from roadloop_agent.drive.handlers import Outcome
from roadloop_agent.drive.handlers.vehicle_count import CountHandler, Counting
from roadloop_agent.drive.pipeline import Model
from roadloop_agent.onboard import task_settings
from roadloop_agent.task_settings import VehicleCountSettings
from roadloop_models.bundle import Postprocess
from roadloop_models.contract.streams import CROSSING, FLOW
from roadloop_models.detect import ImageLetterbox, build_detector
from roadloop_models.errors import ConfigError, FailedError, ModelInputError
from roadloop_models.preprocess import ImageArray
from tests.fakes.foreground_model import threshold_model

HEIGHT, WIDTH = 96, 192
UPRIGHT = {"name": "gate", "from": [0.5, 0.0], "to": [0.5, 1.0]}


class Quiet:
    """A slot that drops nothing and has no room for captures."""

    frames, dropped = 1, 3

    def may_capture(self) -> bool:
        return False


def handler(**settings: Any) -> CountHandler:
    table = SlotTable(task="vehicle-count", runtime="onnx", source="camera", rate_hz=10.0, settings=settings)
    return CountHandler(table)


def scene(
    top: float | None = None, left: int = 20, size: int = 24, shape: tuple[int, int] = (HEIGHT, WIDTH)
) -> ImageArray:
    """A grey road, and a white block on it."""
    image = np.full((*shape, 3), 90, np.uint8)
    if top is not None:
        image[max(0, round(top)) : max(0, round(top) + size), left : left + size] = 240
    return image


def drive(counter: CountHandler, images: list[ImageArray], model: Any, first: int = 0) -> list[Outcome]:
    frames = [Frame(n, n / 10.0, n * 100, image, t_source_s=100 + n / 10.0) for n, image in enumerate(images, first)]
    return [counter.handle(frame, model, Quiet()) for frame in frames]


def passing(**changes: Any) -> list[ImageArray]:
    """Three empty frames, then a block that drives down through the picture."""
    return [scene(**{"shape": (HEIGHT, WIDTH)} | changes | {"top": None})] * 3 + [
        scene(top, **changes) for top in range(-24, HEIGHT, 6)
    ]


def rows(outcomes: list[Outcome], stream: Any) -> list[list[float]]:
    return [row for outcome in outcomes for made, row in outcome.rows if made is stream]


def test_a_vehicle_that_passes_is_one_row_and_one_decision() -> None:
    _, model = threshold_model()
    outcomes = drive(handler(), passing(), model)
    (row,) = rows(outcomes, CROSSING)
    named = dict(zip([field.name for field in CROSSING.fields], row, strict=True))
    # The block's middle is at -12 in frame 3 and 6 further in each; 48 is the middle of the picture.
    assert abs(named["item"] - 13.0) <= 1.0
    assert (named["line"], named["direction"], named["track"], named["class_id"], named["release"]) == (0, 1, 1, 0, 7)
    assert all(outcome.decided and outcome.latency_us > 0 for outcome in outcomes)
    told = [line for outcome in outcomes if outcome.decision for line in outcome.decision()["crossings"]]
    assert [(line["event"], line["line"], line["direction"], line["class"]) for line in told] == [
        ("crossing", "mid", "down", "vehicle")
    ]
    assert told[0]["frame"] == named["item"] and told[0]["t"] == pytest.approx(100 + told[0]["frame"] / 10)


def test_an_empty_road_has_no_confidence_and_a_vehicle_has_one() -> None:
    _, model = threshold_model()
    outcomes = drive(handler(), passing(), model)
    assert outcomes[0].confidence is None
    assert any(outcome.confidence is not None and outcome.confidence > 0.9 for outcome in outcomes)


def test_flow_is_summed_up_by_line_on_a_quiet_road_too() -> None:
    _, model = threshold_model()
    counter = handler(flow_period_s=2.0, lines=[UPRIGHT, {"name": "mid", "from": [0, 0.5], "to": [1, 0.5]}])
    outcomes = drive(counter, passing() + [scene()] * 50, model)
    flow = rows(outcomes, FLOW)
    by_line = [[row[2:4] for row in flow if row[0] == line] for line in (0.0, 1.0)]
    assert by_line[0] == [[0.0, 0.0]] * len(by_line[0])
    assert sorted(by_line[1]) == [[0.0, 0.0]] * (len(by_line[1]) - 1) + [[0.0, 1.0]]
    assert all(row[1] >= 2.0 and row[4] >= 20 and row[8] == 3 for row in flow)


def test_another_version_goes_on_with_the_same_background_and_track() -> None:
    _, first = threshold_model()
    _, second = threshold_model()
    counter, images = handler(), passing()
    outcomes = drive(counter, images[:10], first) + drive(counter, images[10:], second, first=10)
    assert len(rows(outcomes, CROSSING)) == 1


def test_without_a_model_nothing_is_decided() -> None:
    assert drive(handler(), passing()[:2], None) == [Outcome(), Outcome()]


def test_a_camera_that_comes_back_in_another_size_begins_anew_and_counts_on() -> None:
    _, model = threshold_model()
    counter = handler()
    before = drive(counter, passing(), model)
    after = drive(counter, passing(shape=(HEIGHT, 160)), model, first=100)
    assert [len(rows(outcomes, CROSSING)) for outcomes in (before, after)] == [1, 1]


def test_a_replay_that_begins_again_counts_again() -> None:
    _, model = threshold_model()
    counter = handler()
    assert [len(rows(drive(counter, passing(), model), CROSSING)) for _ in range(2)] == [1, 1]


def test_answers_that_are_not_finite_are_an_error_and_the_next_frame_is_tried() -> None:
    fake, model = threshold_model()
    counter, images = handler(), passing()
    drive(counter, images[:4], model)
    fake.broken = True
    with pytest.raises(FailedError, match="not finite"):
        drive(counter, images[4:5], model, first=4)
    fake.broken = False
    assert len(rows(drive(counter, images[5:], model, first=5), CROSSING)) == 1


def test_what_is_no_image_is_refused() -> None:
    _, model = threshold_model()
    with pytest.raises(ModelInputError, match="expected uint8 RGB"):
        drive(handler(), [np.zeros((10, 10), np.uint8)], model)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"lines": [{"name": "a", "from": [0, 0], "to": [1, 2]}]}, r"lines\[0\]"),
        ({"lines": [{"name": "a", "from": [0, 0], "too": [1, 1]}]}, r"lines\[0\].too: unknown key; did you mean 'to'"),
        ({"lines": [{"name": "a", "from": [0, 0], "to": [0, 0]}]}, "has no sides"),
        ({"lines": [UPRIGHT, UPRIGHT]}, "have one name"),
        ({"min_score": 2}, "min_score"),
        ({"line": []}, "did you mean 'lines'"),
    ],
)
def test_settings_are_refused_by_name(raw: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        task_settings("vehicle-count", raw, "slots.gate.settings")


def test_a_class_that_the_model_lacks_is_refused_with_those_it_has() -> None:
    _, model = threshold_model()
    counting = Counting(VehicleCountSettings(classes=("lorry",)))
    with pytest.raises(ConfigError, match="'lorry' is no label of .*; it has vehicle"):
        counting.step(model, 0, None, scene())


class _Boxes:
    """An imported detector whose graph answers boxes: a car drives down on the left, a person on the right."""

    preprocess = ImageLetterbox(64, 64, fit="stretch")
    postprocess = build_detector(Postprocess("boxes"), preprocess, ("person", "car"))
    release, name = 0, "vehicle-count imported-1"

    def __init__(self) -> None:
        self.frame = 0

    def run(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        assert inputs[0].shape == (1, 3, 64, 64)
        top = 2.0 * self.frame
        self.frame += 1
        return (np.array([[(5, top, 15, top + 10, 0.9, 1), (40, top, 50, top + 10, 0.8, 0)]], np.float32),)


@pytest.mark.parametrize(("classes", "told"), [((), ["car", "person"]), (("car",), ["car"])])
def test_an_imported_detector_counts_too_and_only_what_is_asked_for(classes: tuple[str, ...], told: list[str]) -> None:
    counting, model = Counting(VehicleCountSettings(classes=classes)), cast(Model, _Boxes())
    crossings = [
        counting.line(crossing, model)
        for number in range(27)
        for crossing in counting.step(model, number, None, np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    ]
    assert sorted(str(line["class"]) for line in crossings) == told
    # The boxes' middle is at 2 n + 5 of 64 rows: beyond the middle line at frame 14.
    assert all(line["frame"] == 14 and line["t"] is None for line in crossings)
