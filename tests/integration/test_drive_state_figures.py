"""The bars of the drive-state bundle: size everywhere, figures where the real data is."""

import os
from pathlib import Path

import pytest

from roadloop_models.bundle import Bundle
from roadloop_models.packaged import packaged_bundles
from roadloop_models.runners import open_runner
from roadloop_models.tasks import get_task

AUC_BARS = {"frozen": 0.95, "stuck": 0.94, "offset": 0.91, "noise": 0.96, "spikes": 0.94, "stuck_coolant": 0.85}


def test_the_bundle_is_small() -> None:
    bundle = Bundle.open(packaged_bundles()["drive-state"])
    assert sum(entry.size_bytes for entry in bundle.manifest.files) < 400_000


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize("key", ["onnx-int8", "tflite-int8"])
def test_the_figures_are_above_the_bars_and_those_of_the_card(key: str) -> None:
    data = os.environ.get("ROADLOOP_DATA")
    if not data:
        pytest.skip("ROADLOOP_DATA names no folder of real data")
    bundle = Bundle.open(packaged_bundles()["drive-state"], key)
    variant = bundle.variant_by_key(key)
    found = get_task("drive-state").evaluate(bundle, variant, open_runner(bundle, variant), Path(data)).metrics
    assert found["better_than_last_value"] >= 0.10
    assert found["car_better_than_last_value"] >= 0.10
    for fault, bar in AUC_BARS.items():
        assert found[f"auc_{fault}"] >= bar, fault
    for name in ("mae_kmh_10s", *(f"auc_{fault}" for fault in AUC_BARS)):
        assert found[name] == pytest.approx(bundle.manifest.metrics[f"{key}/{name}"], rel=2e-3), name
