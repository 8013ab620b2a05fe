"""What `scripts/bench learning --full --keep` goes on with, and what it refuses."""

from pathlib import Path

import pytest

from roadloop_cloud.training.record import code_sha256
from roadloop_models.bundle import Lineage
from roadloop_models.bundle.manifest import TrainingRecord
from roadloop_models.errors import BundleError
from tests.bench.learning.context import Context
from tests.bench.learning.trained import once, training_folder
from tests.fakes.bundles import tiny_bundle


def _record(code: str) -> TrainingRecord:
    return TrainingRecord(
        seed=1,
        recipe={},
        best_epoch=1,
        refitted=True,
        executor="local",
        workers=1,
        threads=1,
        code_version="0",
        code_sha256=code,
        python="3",
        platform="linux",
        packages={},
    )


def test_what_is_kept_is_trained_once(tmp_path: Path) -> None:
    trained: list[str] = []

    def train(target: Path) -> None:
        trained.append(target.name)
        tiny_bundle(target, target.name, lineage=Lineage(training=_record(code_sha256())))

    for _ in range(2):
        with training_folder(Context(None, full=True, keep=tmp_path / "kept")) as folder:
            assert once(folder / "a", train).manifest.version == "a"
    assert trained == ["a"] and folder == tmp_path / "kept"
    with training_folder(Context(None, full=True)) as passing:
        once(passing / "a", train)
    assert trained == ["a", "a"] and not passing.exists()


def test_what_other_code_has_trained_is_no_figure_of_this_one(tmp_path: Path) -> None:
    def train(target: Path) -> None:
        tiny_bundle(target, target.name, lineage=Lineage(training=_record("0" * 64)))

    for _ in range(2):
        with pytest.raises(BundleError, match=r"a: other code than this"):
            once(tmp_path / "a", train)
