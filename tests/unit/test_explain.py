"""Explanations: rows that are worth a look, occlusion that finds what a made model looks at, gradients that add up."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from roadloop_cloud.explain.attribution import Target, attribute
from roadloop_cloud.explain.pictures import Panels, draw_explanations
from roadloop_cloud.explain.rows import Axes, Row, choose
from roadloop_cloud.explain.series import Obd, Speeds
from roadloop_cloud.explain.signs import Signs
from roadloop_cloud.training.attribute import integrated_gradients
from roadloop_models.drive_state.signals import COUNT, NAMES
from roadloop_models.drive_state.window import FEATURES, ROWS
from roadloop_models.errors import BundleError
from roadloop_models.preprocess import SpeedWindow
from roadloop_models.runners import FloatArray
from roadloop_models.tasks import Evaluation
from tests.fakes.bundles import tiny_bundle


def test_half_of_the_rows_are_the_worst_of_different_clusters() -> None:
    losses = np.array([0, 9, 8, 1, 7, 2, 3, 0], dtype=np.float32)
    clusters = np.array([0, 1, 1, 2, 3, 4, 5, 6])
    chosen = choose(Evaluation({}, 8, losses=losses, clusters=clusters), 4, seed=1)
    assert chosen[:2] == [1, 4]  # row 2 is of the cluster of row 1
    assert len(set(chosen)) == 4
    assert chosen == choose(Evaluation({}, 8, losses=losses, clusters=clusters), 4, seed=1)
    assert len(choose(Evaluation({}, 8, losses=losses), 50, seed=1)) == 8


def test_occlusion_of_an_image_finds_the_part_that_decides() -> None:
    image = np.full((32, 32, 3), 90, dtype=np.uint8)
    image[20:26, 4:10] = 250

    def bright_corner(item: np.ndarray) -> tuple[FloatArray, ...]:
        return (np.array([[float(item[20:26, 4:10].mean()) / 25, 5.0]], dtype=np.float32),)

    found = Signs().occlude(Row(0, "", image, 0, (0,)), bright_corner)
    assert found.shape == (32, 32)
    top, left = np.unravel_index(int(found.argmax()), found.shape)
    assert 16 <= top < 30 and 0 <= left < 14
    assert found[20:26, 4:10].mean() > 0.2 > abs(found[:, 20:]).max()


def test_occlusion_of_speeds_tells_the_own_sensor_from_the_others() -> None:
    speeds = np.random.default_rng(1).normal(60, 5, (12, 4)).astype(np.float32)

    def last_of_two(window: SpeedWindow) -> tuple[FloatArray, ...]:
        answer = np.zeros((1, 4, 12), dtype=np.float32)
        answer[0, 2, 11] = window.speeds_mph[11, 2] + 0.1 * window.speeds_mph[3, 0]
        return (answer,)

    row = Row(0, "", SpeedWindow(speeds, 100), 0, (2, 11), focus=2)
    found = Speeds().occlude(row, last_of_two)
    expected = np.zeros((2, 12))
    expected[0, 11] = speeds[11, 2] - speeds[:, 2].mean()
    expected[1, 3] = 0.1 * (speeds[3, 0] - speeds[:, 0].mean())
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_occlusion_of_a_signal_that_the_car_does_not_tell_changes_nothing() -> None:
    values = np.full((ROWS, COUNT), np.nan, dtype=np.float32)
    values[:, :2] = 20.0

    def known_rows(item: np.ndarray) -> tuple[FloatArray, ...]:
        return (np.zeros((1, 3), dtype=np.float32), np.array([[np.isfinite(item[-6:, 1]).sum()]], dtype=np.float32))

    found = Obd().occlude(Row(0, "", values, 1, (0,)), known_rows)
    assert found.shape == (len(NAMES), 20)
    assert found[1, 19] == 6 and np.count_nonzero(found) == 1


def test_attributions_are_gathered_by_signal_and_step() -> None:
    values = np.arange(20 * FEATURES * COUNT, dtype=np.float32).reshape(1, 20, FEATURES * COUNT)
    found = Obd().gather([values], Row(0, "", None, 1, (0,)))
    assert found.shape == (COUNT, 20)
    assert found[3, 7] == values[0, 7].reshape(FEATURES, COUNT)[:, 3].sum()
    speeds = np.arange(12 * 4, dtype=np.float32).reshape(1, 12, 4)
    own, others = Speeds().gather([speeds, np.zeros((1, 4), dtype=np.float32)], Row(0, "", None, 0, (2, 11), focus=2))
    np.testing.assert_array_equal(own, speeds[0, :, 2])
    np.testing.assert_array_equal(own + others, speeds[0].sum(axis=1))


class _Made(torch.nn.Module):  # type: ignore[misc]
    """Two inputs, one of which does not matter to the second answer."""

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (first.tanh().sum(dim=1, keepdim=True) * second, (first**2) @ torch.tensor([[1.0], [2.0], [3.0]]))


def test_integrated_gradients_add_up_to_the_change_of_the_answer() -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = (torch.randn(1, 3, generator=generator), torch.randn(1, 1, generator=generator))
    baseline = (torch.full((1, 3), 0.3), torch.full((1, 1), -0.2))
    model = _Made()
    for target in (Target(0, (0,)), Target(1, (0,))):
        found = integrated_gradients(model, baseline, inputs, target, steps=128)
        change = model(*inputs)[target.output][0, 0] - model(*baseline)[target.output][0, 0]
        total = sum(float(one.sum()) for one in found)
        assert total == pytest.approx(float(change), abs=1e-3)
    # Of a square from 0 the closed form is the square itself, weighted.
    squares = integrated_gradients(model, (torch.zeros(1, 3), torch.zeros(1, 1)), inputs, Target(1, (0,)), steps=8)
    np.testing.assert_allclose(squares[0].numpy(), (inputs[0] ** 2 * torch.tensor([1.0, 2.0, 3.0])).numpy(), rtol=1e-5)
    assert float(squares[1].abs().sum()) == 0  # it has no part in this answer


def test_a_bundle_without_training_weights_has_no_gradients(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    with pytest.raises(BundleError, match="training_weights"):
        attribute(bundle, tmp_path, [(np.zeros((1, 32, 32, 3), dtype=np.float32),)], [Target(0, (0,))], tmp_path)


@pytest.mark.parametrize("image", [None, np.zeros((8, 8, 3), dtype=np.uint8)])
def test_pictures_are_written(tmp_path: Path, image: Any) -> None:
    values = np.zeros((8, 8), dtype=np.float32)
    names = tuple(f"{place}" for place in range(8))
    panels = [Panels("a row", image, {"occlusion": values, "gradients": values + 1})]
    draw_explanations(panels, Axes(names, names), "title", tmp_path / "found.png")
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
