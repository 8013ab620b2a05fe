"""Explanation and card of a version, killed at every call: what is there is whole, and the next one completes it."""

import shutil
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from roadloop_cloud.cards.card import CARD_FOLDER, PAGE, keep_card
from roadloop_cloud.explain import service as explaining
from roadloop_cloud.gate.records import Records
from roadloop_models.bundle import Bundle
from roadloop_models.runners import FloatArray
from roadloop_models.tasks import Evaluation
from roadloop_models.tasks.made_signs import made_signs
from roadloop_models.tasks.sign_data import FOLDER, TEST_FILE, write_signs
from tests.fakes.bundles import tiny_bundle
from tests.fakes.injection import hooked, killed_at

PNG_END = b"IEND\xaeB`\x82"


def attribute(
    bundle: Bundle, data_dir: Path, inputs: list[tuple[FloatArray, ...]], targets: object, folder: Path
) -> tuple[list[list[FloatArray]], FloatArray]:
    """Where a process with torch would work: the bundle has no training weights. It leaves files there, too."""
    (folder / "attribution.json").write_text("{}")
    return [list(row) for row in inputs], np.zeros(len(inputs), dtype=np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_any_call_nothing_is_half_there_and_it_begins_again(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    bundle, data, records = tiny_bundle(tmp_path / "bundle", "v2"), tmp_path / "data", Records(tmp_path / "kept")
    write_signs(data / FOLDER / TEST_FILE, made_signs(1, 1, seed=3))
    evaluation = Evaluation({}, 43, losses=np.arange(43, dtype=np.float32))
    kept = records.of("traffic-sign", "v2")

    def make() -> None:
        with mock.patch.object(explaining, "attribute", attribute):
            show = lambda text, done: None  # noqa: E731
            explaining.explain(bundle, bundle.variant(), data, evaluation, kept, count=1, step=show)
            keep_card(bundle, records)

    calls: list[int] = []
    with hooked(lambda number, name, when, args: calls.append(number)):
        make()
    assert len(set(calls)) > 20, "what shall be killed has hardly any calls"
    shutil.rmtree(kept)
    kills = 0
    for number in sorted(set(calls)):
        kills += killed_at(number, moment, make)  # after a call that raises nothing is killed
        picture, card = kept / explaining.PICTURE, kept / CARD_FOLDER
        if picture.exists():
            assert picture.read_bytes().endswith(PNG_END)
            with np.load(kept / explaining.MAPS, allow_pickle=False) as maps:
                assert maps["index"].shape == (1,)
        if card.exists():
            assert f"]({explaining.PICTURE})" in (card / PAGE).read_text()
            assert (card / explaining.PICTURE).read_bytes().endswith(PNG_END)
    assert kills > 20
    assert list(temporary.iterdir()) == [], "nobody would clean up there"
    (kept / ".explaining").mkdir(exist_ok=True)  # the last kills came after it was removed
    make()
    assert sorted(path.name for path in kept.iterdir()) == sorted([CARD_FOLDER, explaining.MAPS, explaining.PICTURE])
