"""Training as the cloud runs it: a subprocess, from rows to a bundle that the vehicle's own runners take."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from roadloop_cloud.training.evaluate import evaluate_bundle
from roadloop_cloud.training.run import LOG_FILE, run_training
from roadloop_cloud.training.spec import DataSource, TrainingProgress, TrainingSpec
from roadloop_models.bundle import Bundle
from roadloop_models.bundle.golden import check_golden
from roadloop_models.errors import BundleError, DataError, FailedError, RoadloopError
from roadloop_models.packaged import packaged_bundles
from roadloop_models.runners import open_runner
from roadloop_models.tasks import get_task, is_better

pytestmark = pytest.mark.slow
STARTERS = sorted(packaged_bundles("starter"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made data of the tasks that have a starter, test rows included."""
    directory = tmp_path_factory.mktemp("made")
    for task in STARTERS:
        get_task(task).write_made_data(directory, seed=11)
    return directory


@pytest.mark.timeout(600)
@pytest.mark.parametrize("task_name", STARTERS)
def test_rows_from_the_fleet_make_the_starter_better(made: Path, tmp_path: Path, task_name: str) -> None:
    task, starter = get_task(task_name), packaged_bundles("starter")[task_name]
    task.write_part(made, "rest", tmp_path / "snapshot")
    seen: list[TrainingProgress] = []
    spec = TrainingSpec(
        task=task_name,
        version="candidate-1",
        data=DataSource(str(tmp_path / "snapshot")),
        parent=str(starter),
        base=DataSource(str(made), "starter"),
        seed=3,
        snapshot_sha256="ab" * 32,
    )
    result = run_training(spec, tmp_path / "work", seen.append)

    candidate, incumbent = Bundle.open(Path(result.bundle)), Bundle.open(starter)
    assert candidate.manifest.version == "candidate-1"
    assert candidate.manifest.lineage.parent_version == incumbent.manifest.version
    assert candidate.manifest.lineage.snapshot_sha256 == "ab" * 32
    assert {step.stage for step in seen} >= {"load", "train", "quantize", "check"}
    assert result.best_epoch > 0
    assert {variant.key for variant in candidate.manifest.variants} == {"onnx-int8", "tflite-int8"}
    for variant in candidate.manifest.variants:
        check_golden(candidate, variant, open_runner(candidate, variant))
        assert any(tensor.quantization for tensor in variant.inputs) == (variant.runtime == "tflite")
    found, before = evaluate_bundle(candidate, made), evaluate_bundle(incumbent, made)
    for key, evaluation in found.items():
        assert evaluation.rows == before[key].rows
        assert is_better(task, evaluation.metrics[task.metric], before[key].metrics[task.metric]), key
    with np.load(candidate.path("weights.npz"), allow_pickle=False) as arrays:
        assert all(arrays[name].dtype == np.float16 for name in arrays.files)


@pytest.mark.timeout(600)
def test_equal_seeds_give_equal_files(made: Path, tmp_path: Path) -> None:
    manifests = []
    for run in ("first", "again"):
        spec = TrainingSpec(
            task="traffic-speed", version="v-1", data=DataSource(str(made), "starter"), epochs=1, refit=False, seed=5
        )
        manifests.append(Bundle.open(Path(run_training(spec, tmp_path / run).bundle)).manifest)
    assert manifests[0] == manifests[1]


def _spec(made: Path, **changes: object) -> TrainingSpec:
    spec = TrainingSpec(task="traffic-speed", version="v-1", data=DataSource(str(made), "starter"), epochs=1)
    return msgspec.structs.replace(spec, **changes)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"data": DataSource("nowhere")}, DataError, "los_speed.csv"),
        ({"task": "traffic-sign", "data": DataSource("nowhere")}, DataError, "train.npz"),
        ({"parent": "nowhere"}, BundleError, "manifest.json"),
        ({"parent": str(packaged_bundles()["traffic-sign"])}, BundleError, "is a bundle of traffic-sign"),
        ({"task": "weather"}, RoadloopError, "no training for task 'weather'"),
    ],
)
def test_what_is_wrong_with_the_input_comes_back_as_it_was_raised(
    made: Path, tmp_path: Path, changes: dict[str, object], error: type[RoadloopError], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        run_training(_spec(made, **changes), tmp_path / "work")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "work" / "bundle").exists()


def test_a_bundle_that_exists_is_never_overwritten(made: Path, tmp_path: Path) -> None:
    (tmp_path / "work" / "bundle").mkdir(parents=True)
    with pytest.raises(BundleError, match="exists already"):
        run_training(_spec(made), tmp_path / "work")


class _StopError(Exception):
    """Stands for Ctrl-C or a job that is taken away."""


def test_stopping_ends_the_subprocess_and_leaves_no_bundle(made: Path, tmp_path: Path) -> None:
    def stop(step: TrainingProgress) -> None:
        if step.stage == "train":
            raise _StopError

    started = time.monotonic()
    with pytest.raises(_StopError):
        run_training(_spec(made, epochs=500), tmp_path / "work", stop)
    assert time.monotonic() - started < 120
    left = {path.name for path in (tmp_path / "work").iterdir()}
    assert left <= {"checkpoints", "lock", "spec.json", LOG_FILE}


def test_a_subprocess_that_dies_is_a_failed_run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import os, sys\nprint('no memory', file=sys.stderr, flush=True)\nos.abort()\n"
    )
    with pytest.raises(FailedError, match=rf"exit code -{signal.SIGABRT.value}.*no memory"):
        run_training(_spec(made), tmp_path / "work")


def test_the_calling_side_does_not_import_torch() -> None:
    code = "import sys, roadloop_cloud.training.make, roadloop_cloud.training.evaluate; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_the_card_and_the_manifest_say_what_the_run_was(made: Path, tmp_path: Path) -> None:
    spec = _spec(made, test_data=str(made), refit=False, with_fp32=True, command="the command", data_name="made")
    bundle = Bundle.open(Path(run_training(spec, tmp_path / "work").bundle))
    card = bundle.path("MODEL_CARD.md").read_text()
    for wanted in ("made data", "the command", "Seed 0", "onnx-fp32", "rmse_mph_60min", "chosen without test rows"):
        assert wanted in card
    int8, fp32 = (bundle.manifest.metrics[f"onnx-{precision}/rmse_mph_60min"] for precision in ("int8", "fp32"))
    assert int8 == pytest.approx(fp32, rel=0.05)
    raw = json.loads((bundle.directory / "manifest.json").read_text())
    assert raw["lineage"]["command"] == "the command"
