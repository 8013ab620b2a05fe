"""The bars of the factory bundles: size everywhere, accuracy by the published protocols where the real data is."""

import os
from pathlib import Path

import numpy as np
import pytest

from roadloop_models.bundle import Bundle
from roadloop_models.packaged import Collection, packaged_bundles
from roadloop_models.runners import open_runner
from roadloop_models.tasks import get_task

INT8 = ("onnx-int8", "tflite-int8")
SPEED_BARS_MPH = {"rmse_mph_15min": 4.90, "rmse_mph_30min": 5.65, "rmse_mph_45min": 6.15, "rmse_mph_60min": 6.55}


def _evaluate(task: str, collection: Collection, key: str) -> dict[str, float]:
    data = os.environ.get("ROADLOOP_DATA")
    if not data:
        pytest.skip("ROADLOOP_DATA names no folder of real data")
    bundle = Bundle.open(packaged_bundles(collection)[task], key)
    variant = bundle.variant_by_key(key)
    return get_task(task).evaluate(bundle, variant, open_runner(bundle, variant), Path(data)).metrics


@pytest.mark.parametrize("collection", ["factory", "starter"])
@pytest.mark.parametrize("key", INT8)
def test_the_sign_files_are_small(collection: Collection, key: str) -> None:
    bundle = Bundle.open(packaged_bundles(collection)["traffic-sign"])
    assert bundle.manifest.file_entry(bundle.variant_by_key(key).file).size_bytes <= 450_000


def test_the_sign_model_has_few_parameters() -> None:
    bundle = Bundle.open(packaged_bundles()["traffic-sign"])
    assert bundle.manifest.training_weights is not None
    with np.load(bundle.path(bundle.manifest.training_weights), allow_pickle=False) as arrays:
        assert sum(arrays[name].size for name in arrays.files) <= 400_000


@pytest.mark.realdata
def test_signs_reach_the_bar_in_both_runtimes_and_int8_costs_little() -> None:
    fp32 = _evaluate("traffic-sign", "factory", "onnx-fp32")["accuracy"]
    for key in INT8:
        accuracy = _evaluate("traffic-sign", "factory", key)["accuracy"]
        assert accuracy >= 0.993, key
        assert fp32 - accuracy <= 0.001, key


def test_the_pruned_int8_files_are_a_third_of_the_whole_in_fp32() -> None:
    whole, pruned = (Bundle.open(packaged_bundles(name)["traffic-sign"]) for name in ("factory", "pruned"))
    fp32_bytes = whole.manifest.file_entry(whole.variant_by_key("onnx-fp32").file).size_bytes
    for key in INT8:
        assert 3 * pruned.manifest.file_entry(pruned.variant_by_key(key).file).size_bytes <= fp32_bytes


@pytest.mark.realdata
def test_the_pruned_int8_files_are_nearly_as_right_as_the_whole_in_fp32() -> None:
    whole = _evaluate("traffic-sign", "factory", "onnx-fp32")["accuracy"]
    for key in INT8:
        assert whole - _evaluate("traffic-sign", "pruned", key)["accuracy"] <= 0.003, key


@pytest.mark.realdata
def test_speeds_reach_the_bars_in_both_runtimes_and_int8_costs_little() -> None:
    fp32 = _evaluate("traffic-speed", "factory", "onnx-fp32")
    for key in INT8:
        found = _evaluate("traffic-speed", "factory", key)
        for name, bar in SPEED_BARS_MPH.items():
            assert found[name] <= bar, (key, name)
            assert found[name] <= 1.005 * fp32[name], (key, name)


@pytest.mark.realdata
def test_counts_are_forecast_better_than_by_the_published_networks() -> None:
    for key in INT8:
        found = _evaluate("traffic-flow", "factory", key)
        assert found["mae_veh"] < 7.06 and found["rmse_veh"] < 9.60, key


@pytest.mark.realdata
@pytest.mark.parametrize("task_name", ["traffic-sign", "traffic-speed", "traffic-flow"])
def test_the_cards_figures_are_what_the_files_give(task_name: str) -> None:
    bundle = Bundle.open(packaged_bundles()[task_name])
    for key in INT8:
        for name, value in _evaluate(task_name, "factory", key).items():
            assert value == pytest.approx(bundle.manifest.metrics[f"{key}/{name}"], rel=2e-3), (key, name)
