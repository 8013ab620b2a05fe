"""Pictures where what draws them is not installed."""

import sys
from pathlib import Path

import pytest

from roadloop_cloud.cards.pictures import Slice, draw_slices
from roadloop_models.errors import RuntimeMissingError


def test_a_card_names_the_extra_that_its_pictures_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(RuntimeMissingError, match=r"matplotlib .*install roadloop\[cloud,train\]"):
        draw_slices([Slice("time", "night", 1.5, 20)], "rmse", tmp_path / "slices.png")
