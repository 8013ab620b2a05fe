"""Pre- and postprocessing: what models are fed and what is made of their answers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from roadloop_models.bundle import Bundle, Preprocess
from roadloop_models.errors import BundleError, ModelInputError
from roadloop_models.packaged import packaged_bundles
from roadloop_models.postprocess import Classify, SpeedForecast
from roadloop_models.preprocess import (
    FlowScale,
    ImageArray,
    ImageStandardize,
    SpeedScale,
    SpeedWindow,
    build_preprocess,
    preprocess_of,
    time_of_day,
)

IMAGES = arrays(np.uint8, (32, 32, 3), elements=st.integers(0, 255))


def _reference(image: ImageArray, clip: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    values = image.astype(np.float64)
    return np.asarray(np.clip((values - values.mean()) / max(values.std(), 1.0), -clip, clip))


@given(IMAGES)
def test_standardizing_is_what_its_formula_says(image: ImageArray) -> None:
    (values,) = ImageStandardize(clip=3.0)(image)
    assert values.shape == (1, 32, 32, 3) and values.dtype == np.float32
    np.testing.assert_allclose(values[0], _reference(image, 3.0), atol=2e-4)


@given(IMAGES.filter(lambda image: image.std() > 8), st.integers(0, 40))
def test_brighter_light_gives_the_same_input(image: ImageArray, lift: int) -> None:
    image = (image // 2).astype(np.uint8)
    (dark,), (bright,) = ImageStandardize()(image), ImageStandardize()((image + lift).astype(np.uint8))
    np.testing.assert_allclose(dark, bright, atol=2e-4)


def test_the_image_itself_is_left_alone() -> None:
    image = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    before = image.copy()
    ImageStandardize()(image)
    np.testing.assert_array_equal(image, before)


def test_a_larger_image_is_resized() -> None:
    image = np.zeros((64, 48, 3), dtype=np.uint8)
    image[:32] = 200
    (values,) = ImageStandardize()(image)
    assert values.shape == (1, 32, 32, 3)
    assert values[0, :15].min() > 0 > values[0, 17:].max()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((32, 32), np.uint8),
        np.zeros((32, 32, 4), np.uint8),
        np.zeros((32, 32, 3), np.float32),
        np.zeros((0, 32, 3), np.uint8),
    ],
    ids=["grey", "alpha", "float", "empty"],
)
def test_what_is_no_image_is_refused_with_its_shape(image: ImageArray) -> None:
    with pytest.raises(ModelInputError, match=r"expected uint8 RGB"):
        ImageStandardize()(image)


def test_speeds_are_scaled_and_get_their_time_of_day() -> None:
    window = np.full((12, 207), 35.0, dtype=np.float32)
    speeds, clock = SpeedScale(scale_mph=70.0)(SpeedWindow(window, step=72))
    assert speeds.shape == (1, 12, 207) and clock.shape == (1, 4)
    np.testing.assert_allclose(speeds, 0.5)
    np.testing.assert_allclose(clock[0], [1.0, 0.0, 0.0, -1.0], atol=1e-6)  # step 72 is 06:00


@given(st.integers(0, 10**6))
def test_time_of_day_comes_back_every_day(step: int) -> None:
    today, tomorrow = time_of_day(np.array([step, step + 288]))
    np.testing.assert_allclose(today, tomorrow, atol=1e-6)
    assert math.isclose(float(today[0] ** 2 + today[1] ** 2), 1.0, abs_tol=1e-5)


def test_a_short_window_is_refused() -> None:
    with pytest.raises(ModelInputError, match=r"float32 \[11, 207\]"):
        SpeedScale()(SpeedWindow(np.zeros((11, 207), np.float32), 11))


@pytest.mark.parametrize("function", [ImageStandardize(24, 40, 2.5), SpeedScale(6, 10, 50.0)])
def test_a_manifest_says_enough_to_build_the_same_function(function: ImageStandardize | SpeedScale) -> None:
    built = build_preprocess(function.spec)
    assert isinstance(built, type(function)) and built.spec == function.spec


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (Preprocess("image-mirror"), "no function 'image-mirror'"),
        (Preprocess("image-standardize", {"depth": 3}), "depth"),
        (Preprocess("speed-scale", {"scale_mph": "fast"}), "params"),
    ],
)
def test_an_unknown_function_or_parameter_is_refused(spec: Preprocess, says: str) -> None:
    with pytest.raises(BundleError, match=says):
        build_preprocess(spec)


def test_a_function_of_another_task_is_refused_with_those_that_fit() -> None:
    manifest = Bundle.open(packaged_bundles()["traffic-speed"]).manifest
    assert isinstance(preprocess_of(manifest, ImageStandardize, SpeedScale), SpeedScale)
    with pytest.raises(BundleError, match=r"preprocess is 'speed-scale', expected 'image-standardize' or 'flow-scale'"):
        preprocess_of(manifest, ImageStandardize, FlowScale)


@given(arrays(np.float32, (1, 5), elements=st.floats(-80, 80, width=32)))
def test_confidence_is_the_softmax_of_the_winner(logits: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    sign = Classify(("a", "b", "c", "d", "e"))((logits,))
    wide = logits[0].astype(np.float64)
    softmax = np.exp(wide - wide.max()) / np.exp(wide - wide.max()).sum()
    assert sign.class_id == int(logits[0].argmax()) and sign.label == "abcde"[sign.class_id]
    assert math.isclose(sign.confidence, softmax[sign.class_id], rel_tol=1e-4)
    second, first = np.sort(softmax)[-2:]
    assert math.isclose(sign.margin, first - second, abs_tol=1e-6)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_logits_that_are_not_finite_give_no_confidence(wrong: float) -> None:
    for place in range(3):
        logits = np.zeros((1, 3), np.float32)
        logits[0, place] = wrong
        assert not math.isfinite(Classify(("a", "b", "c"))((logits,)).confidence)


def test_logits_of_another_task_are_refused() -> None:
    with pytest.raises(ModelInputError, match="2 logits for 3 labels"):
        Classify(("a", "b", "c"))((np.zeros((1, 2), np.float32),))


def test_forecasts_are_mph_and_never_negative() -> None:
    forecast = SpeedForecast(70.0)((np.array([[[0.5, -0.1]]], dtype=np.float32),))
    np.testing.assert_allclose(forecast, [[35.0, 0.0]])
