"""What the foreground network sees and answers: background, light, picture, heat."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from roadloop_models.bundle import Preprocess
from roadloop_models.counting.background import MEMORY_FRAMES, Background
from roadloop_models.counting.foreground import ForegroundPair, Scene
from roadloop_models.counting.heat import STRIDE, HeatBoxes, heat_targets
from roadloop_models.counting.watcher import Watcher
from roadloop_models.errors import FailedError, ModelInputError
from roadloop_models.preprocess import build_preprocess

ROWS, COLUMNS = 48, 64


def road(seed: int = 0) -> np.ndarray:
    """A grey road with some texture: uint8 [48, 64, 3]."""
    texture = np.random.default_rng(seed).integers(70, 110, (ROWS, COLUMNS, 1))
    return np.repeat(texture, 3, axis=2).astype(np.uint8)


def with_car(scene: np.ndarray, left: int, level: int = 230) -> np.ndarray:
    image = scene.copy()
    image[10:30, max(0, left) : max(0, left + 24)] = level
    return image


def furthest(background: np.ndarray, scene: np.ndarray) -> int:
    return int(np.abs(background.astype(int) - scene).max())


def test_what_passes_leaves_no_trace() -> None:
    background, scene = Background(), road()
    for _ in range(20):
        background.update(scene)
    for left in range(-24, COLUMNS, 3):
        assert furthest(background.update(with_car(scene, left)), scene) <= 2


def test_a_vehicle_in_the_first_frames_is_forgotten_once_the_road_was_seen_as_long() -> None:
    background, scene = Background(), road()
    for _ in range(5):
        background.update(with_car(scene, 20))
    for _ in range(7):
        seen = background.update(scene)
    assert furthest(seen, scene) <= 2


def test_a_vehicle_that_parks_becomes_background_and_leaves_no_hole() -> None:
    background, scene = Background(), road()
    for _ in range(MEMORY_FRAMES):
        background.update(scene)
    for _ in range(MEMORY_FRAMES + 5):
        seen = background.update(with_car(scene, 20))
    assert furthest(seen, with_car(scene, 20)) <= 2
    for _ in range(8):
        seen = background.update(scene)
    assert furthest(seen, scene) <= 2


@given(st.floats(0.55, 1.9), st.integers(0, 1000))
def test_a_change_of_light_is_followed_in_one_frame_behind_a_vehicle_too(gain: float, seed: int) -> None:
    background, scene = Background(), road(seed)
    for _ in range(12):
        background.update(scene)
    brighter = np.clip(scene * gain, 0, 255).astype(np.uint8)
    seen = background.update(with_car(brighter, 20, level=30))
    assert furthest(seen, brighter) <= 6


@pytest.mark.parametrize("before", [0, 100])
@pytest.mark.parametrize("black", [3, 100])
def test_black_frames_are_survived(before: int, black: int) -> None:
    background, scene = Background(), road()
    for image, frames in ((scene, before), (np.zeros_like(scene), black), (scene, 6)):
        for _ in range(frames):
            seen = background.update(image)
    assert furthest(seen, scene) <= 6


def test_a_camera_that_is_turned_sees_another_scene_in_a_few_frames() -> None:
    generator = np.random.default_rng(3)
    elsewhere, scene = (generator.integers(20, 235, (ROWS, COLUMNS, 3)).astype(np.uint8) for _ in range(2))
    background = Background()
    for _ in range(MEMORY_FRAMES):
        background.update(elsewhere)
    for _ in range(6):
        seen = background.update(scene)
    assert furthest(seen, scene) <= 2


def test_a_camera_of_another_size_begins_anew() -> None:
    watcher, pair = Watcher(), ForegroundPair(48, 64)
    for _ in range(30):
        watcher.look(np.full((96, 128, 3), 200, np.uint8), pair)
    (tensor,) = watcher.look(np.full((48, 64, 3), 50, np.uint8), pair)
    assert not tensor[..., 3:].any(), "the first frame of a scene is its background"


def test_the_picture_says_how_far_a_frame_is_from_its_background_whatever_the_exposure() -> None:
    pair = ForegroundPair(48, 64)
    tensors = []
    for gain in (1.0, 0.5):
        behind = (road() * gain).astype(np.uint8)
        (tensor,) = pair(Scene((with_car(road(), 20, 150) * gain).astype(np.uint8), behind))
        assert tensor.shape == pair.input_shape and tensor.dtype == np.float32
        assert np.abs(tensor[0, 35:, :, 3:]).max() == 0.0
        tensors.append(tensor[0, 10:30, 20:44, 3:].mean())
    assert tensors[0] == pytest.approx(tensors[1], rel=0.15)
    assert tensors[0] > 0.5


@given(st.integers(1, 2000), st.integers(1, 2000))
def test_frames_of_any_proportions_fit_and_boxes_come_back(height: int, width: int) -> None:
    pair = ForegroundPair()
    placed = pair.placement(height, width)
    _, rows, columns, _ = pair.input_shape
    assert 1 <= placed.height <= rows and 1 <= placed.width <= columns
    assert placed.height == rows or placed.width == columns
    if height * width < 10_000:
        assert pair.fit(np.zeros((height, width, 3), np.uint8)).shape[:2] == (placed.height, placed.width)


def test_what_is_no_image_is_refused() -> None:
    pair = ForegroundPair()
    images: list[Any] = [np.zeros((10, 10), np.uint8), np.zeros((10, 10, 3)), np.zeros((0, 10, 3), np.uint8)]
    for wrong in images:
        with pytest.raises(ModelInputError, match="expected uint8 RGB"):
            pair.fit(wrong)
    with pytest.raises(ModelInputError, match="two equal pictures"):
        pair(Scene(np.zeros((500, 10, 3), np.uint8), np.zeros((500, 10, 3), np.uint8)))


def test_a_manifest_names_the_picture() -> None:
    pair = build_preprocess(ForegroundPair(48, 64, 1.5).spec)
    assert isinstance(pair, ForegroundPair) and pair.spec == Preprocess(
        "foreground-pair", {"height": 48, "width": 64, "clip": 1.5}
    )


@given(arrays.arrays(np.float64, (3, 2), elements=st.floats(0, 1)))
def test_boxes_go_through_heat_and_back(shares: np.ndarray) -> None:
    pair = ForegroundPair()
    _, height, width, _ = pair.input_shape
    # Three boxes in thirds of the picture, so that they do not overlap.
    wanted = np.array(
        [
            (index * 64 + 4, 10 + 40 * up, index * 64 + 4 + 20 + 36 * wide, 10 + 40 * up + 24 + 30 * wide)
            for index, (up, wide) in enumerate(shares)
        ]
    )
    heat, edges, _ = heat_targets(wanted, height // STRIDE, width // STRIDE)
    outputs = np.concatenate([heat[:, :, None], edges], axis=2)[None]
    found = HeatBoxes(pair)((outputs,), height, width)
    assert len(found) == 3
    corners = found.corners
    order = np.argsort(corners[:, 0])
    np.testing.assert_allclose(corners[order], wanted, atol=0.1)
    in_frame = HeatBoxes(pair)((outputs,), height * 4, width * 4)
    np.testing.assert_allclose(in_frame.corners, corners * 4, atol=0.1)


def test_answers_that_are_not_finite_are_an_error() -> None:
    pair = ForegroundPair()
    for value in (np.nan, np.inf):
        outputs = np.zeros(HeatBoxes.output_shape(pair), np.float32)
        outputs[0, 3, 4, 2] = value
        with pytest.raises(FailedError, match="not finite"):
            HeatBoxes(pair)((outputs,), 432, 768)
