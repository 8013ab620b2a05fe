"""Pictures where what draws them is not installed."""

import sys
from pathlib import Path

import numpy as np
import pytest

from roadloop_cloud.cards.pictures import draw_slices
from roadloop_cloud.drift.picture import draw
from roadloop_cloud.explain.pictures import Panels, draw_explanations
from roadloop_cloud.explain.rows import Axes
from roadloop_cloud.gate.slices import Slice
from roadloop_models.errors import RuntimeMissingError

NEEDED = r"matplotlib .*install roadloop\[cloud,train\]"


def test_a_card_names_the_extra_that_its_pictures_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(RuntimeMissingError, match=NEEDED):
        draw_slices([Slice("time", "night", 1.5, 20)], "rmse", tmp_path / "slices.png")


def test_so_do_the_pictures_of_drift_and_of_explanations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(RuntimeMissingError, match=NEEDED):
        draw([], "drift", tmp_path / "drift.png")
    panel = Panels("a window", None, {"occlusion": np.zeros((2, 3), dtype=np.float32)})
    with pytest.raises(RuntimeMissingError, match=NEEDED):
        draw_explanations([panel], Axes(("a", "b"), ("1", "2", "3")), "a model", tmp_path / "maps.png")
