"""What leaves a vehicle: people and vehicles made unreadable, and nothing at all where that cannot be done."""

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from roadloop_agent.campaigns.privacy import blurred, open_darkroom
from roadloop_agent.drive.frames import Frame
from roadloop_agent.drive.outbox import Outbox
from roadloop_agent.drive.roll import CaptureRoll, Shot
from roadloop_agent.drive.sources.images import encode_png
from roadloop_agent.ipc import Captured, FromDrive
from roadloop_models.bundle import Bundle
from roadloop_models.errors import BundleError, ConfigError
from roadloop_models.preprocess import ImageArray
from tests.fakes.detector_files import fastestdet_file
from tests.fakes.imports import imported_detector
from tests.fakes.pipes import FakePipe

BOX = (16, 16, 32, 32)
"""One cell of what the made detector looks at: x1, y1, x2, y2."""


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return imported_detector(fastestdet_file(tmp_path_factory.mktemp("theirs") / "theirs.onnx"))


@pytest.fixture
def picture() -> ImageArray:
    """A block that the detector calls red, with a pattern in it that somebody could recognise."""
    rng = np.random.default_rng(4)
    image = np.full((64, 64, 3), 128, dtype=np.uint8)
    image[16:32, 16:32] = (220, 20, 20)
    image[16:32, 16:32] += rng.integers(0, 30, (16, 16, 3), dtype=np.uint8)
    image[40:, 40:] += rng.integers(0, 3, (24, 24, 3), dtype=np.uint8)
    return image


def decoded(content: bytes) -> ImageArray:
    image = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return np.ascontiguousarray(image[:, :, ::-1])


def colours(image: ImageArray) -> int:
    x1, y1, x2, y2 = BOX
    return len(np.unique(image[y1:y2, x1:x2].reshape(-1, 3), axis=0))


def test_what_the_detector_finds_is_reduced_to_a_few_means(detector: Bundle, picture: ImageArray) -> None:
    before = picture.copy()
    left = decoded(open_darkroom(detector.directory, ("red block",), encode_png)(picture))
    assert colours(picture) > 200 and colours(left) <= 36
    assert np.array_equal(left[40:, 40:], picture[40:, 40:]), "what is around it stays as it is"
    assert np.array_equal(picture, before), "the frame that the slot works on is not touched"


def test_what_is_not_asked_for_stays(detector: Bundle, picture: ImageArray) -> None:
    for darkroom in (
        open_darkroom(detector.directory, ("green block",), encode_png),
        open_darkroom(None, (), encode_png),
    ):
        assert np.array_equal(decoded(darkroom(picture)), picture)


def test_a_box_beyond_the_picture_or_without_a_size_is_no_trouble(picture: ImageArray) -> None:
    assert np.array_equal(blurred(picture, [(80, 80, 90, 90), (5, 5, 5, 5), (-9, -9, -5, -5)]), picture)
    assert colours(blurred(picture, [(-50, -50, 200, 200)])) <= 36


def test_a_label_that_the_detector_lacks_is_refused(detector: Bundle, picture: ImageArray) -> None:
    with pytest.raises(ConfigError, match="'person' is no label of .* red block, green block"):
        open_darkroom(detector.directory, ("person",), encode_png)(picture)


def sent_by(develop_from: Path, picture: ImageArray) -> list[FromDrive]:
    """What the roll sends of a frame."""
    pipe = FakePipe()
    develop = open_darkroom(develop_from, ("red block",), encode_png)
    roll = CaptureRoll(1, Outbox(pipe, 1, lambda: 0.0), {"sign": 1 << 20}, develop)
    roll.add(Shot("sign", "traffic-sign", Frame(1, 0.0, 0, picture), "sign-decision", 1, [0.0]))
    stop = threading.Event()
    stop.set()
    roll.run(stop, lambda: None)
    return pipe.messages


def test_no_image_leaves_where_the_detector_cannot_be_used(
    detector: Bundle, picture: ImageArray, tmp_path: Path
) -> None:
    (captured,) = sent_by(detector.directory, picture)
    assert isinstance(captured, Captured) and colours(decoded(captured.data)) <= 36
    assert sent_by(tmp_path / "no-such-bundle", picture) == []
    with pytest.raises(BundleError):
        open_darkroom(tmp_path / "no-such-bundle", ("red block",), encode_png)(picture)
