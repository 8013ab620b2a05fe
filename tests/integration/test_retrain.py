"""The retraining job on real registry, releases and rollouts; training itself is a fake that writes bundles."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from roadloop_cloud.config import RolloutConfig
from roadloop_cloud.datasets.service import Datasets
from roadloop_cloud.datasets.snapshot import Content, Snapshots
from roadloop_cloud.fleet import desired
from roadloop_cloud.jobs import Jobs, run_job
from roadloop_cloud.registry.releases import release_ref
from roadloop_cloud.retrain.gate import VariantFigures, judge
from roadloop_cloud.retrain.pipeline import KIND, Retraining, RetrainSpec, RolloutRequest
from roadloop_cloud.rollout.service import Rollouts
from roadloop_cloud.rollout.statements import Operators
from roadloop_cloud.store.ingest_tables import Vehicle
from roadloop_cloud.training.run import OnProgress
from roadloop_cloud.training.spec import TrainingProgress, TrainingResult, TrainingSpec
from roadloop_models.bundle import Bundle, Variant, write_bundle
from roadloop_models.contract.messages import Policy
from roadloop_models.errors import ConfigError, FailedError, NotFoundError
from roadloop_models.tasks import Evaluation, Progress, get_task
from roadloop_models.tasks.speed_data import SpeedRows, write_speeds
from tests.fakes.bundles import tiny_bundle
from tests.fakes.cloud import add_vehicle
from tests.fakes.registry import Registry

TASK = "traffic-sign"


def figures(value: float, rows: int = 100) -> VariantFigures:
    return VariantFigures(file_sha256="a" * 64, rows=rows, metrics={"accuracy": value, "rmse_mph_60min": value})


@pytest.mark.parametrize(
    ("task", "incumbent", "candidate", "margin", "accepted"),
    [
        (TASK, 0.98, 0.985, 0.0, True),
        (TASK, 0.98, 0.98, 0.0, False),
        (TASK, 0.98, 0.97, 0.0, False),
        (TASK, 0.98, 0.985, 0.01, False),
        ("traffic-speed", 7.0, 6.9, 0.0, True),
        ("traffic-speed", 7.0, 7.1, 0.0, False),
        ("traffic-speed", 7.0, 6.9, 0.2, False),
    ],
)
def test_the_gate_knows_which_way_is_better(
    task: str, incumbent: float, candidate: float, margin: float, accepted: bool
) -> None:
    verdict = judge(get_task(task), {"onnx-int8": figures(incumbent)}, {"onnx-int8": figures(candidate)}, margin)
    assert verdict.accepted is accepted
    assert bool(verdict.refusals) is not accepted


def test_a_refusal_says_which_gate_and_by_how_much() -> None:
    verdict = judge(get_task(TASK), {"onnx-int8": figures(0.98)}, {"onnx-int8": figures(0.9755)})
    assert verdict.refusals == [
        "gate 'better onnx-int8': accuracy 0.9755 is worse than 0.98 by 0.0045, needed more than 0"
    ]


def test_every_variant_must_be_better_and_the_least_gain_decides() -> None:
    before = {"onnx-int8": figures(0.97), "tflite-int8": figures(0.97)}
    better = judge(get_task(TASK), before, {"onnx-int8": figures(0.98), "tflite-int8": figures(0.975)})
    assert (better.accepted, better.deciding) == (True, "tflite-int8")
    mixed = judge(get_task(TASK), before, {"onnx-int8": figures(0.98), "tflite-int8": figures(0.96)})
    assert not mixed.accepted


def test_a_variant_that_vehicles_run_must_not_go() -> None:
    before = {"onnx-int8": figures(0.97), "tflite-int8": figures(0.97)}
    verdict = judge(get_task(TASK), before, {"onnx-int8": figures(0.99)})
    assert "tflite-int8" in verdict.refusals[0]


def test_other_rows_cannot_be_compared() -> None:
    verdict = judge(get_task(TASK), {"onnx-int8": figures(0.9, 10)}, {"onnx-int8": figures(0.95, 11)})
    assert "cannot be compared" in verdict.refusals[0]


@dataclass
class Lab:
    """The pipeline; `value` of a version is what its evaluation finds, `die_at` the call at which a worker dies."""

    root: Path
    values: dict[str, float] = field(default_factory=lambda: {"v1": 0.98})
    calls: list[str] = field(default_factory=list)
    die_at: str | None = None

    def __post_init__(self) -> None:
        registry = Registry(self.root).create()
        self.registry, self.database = registry, registry.database
        for vehicle in ("car-1", "car-2"):
            add_vehicle(registry.database, vehicle)
        registry.models.register(tiny_bundle(self.root / "v1", "v1", seed=1).directory)
        self.release = registry.releases.publish(TASK, "v1")
        self.snapshots = Snapshots(self.root / "snapshots")
        staging = self.snapshots.staging()
        write_speeds(staging, SpeedRows(np.arange(2), np.ones((2, 2), dtype=np.float32), ("0", "1")))
        self.snapshot = self.snapshots.keep(staging, TASK, Content(2, {"car-1": 2}, {})).sha256
        self.rollouts = Rollouts(
            self.database, registry.releases, RolloutConfig(), lambda: 0.0, Operators(self.root / "operators")
        )
        datasets = Datasets(
            self.database, self.snapshots, lambda _: pytest.fail("not read"), Path, lambda _: pytest.fail("not asked")
        )
        self.jobs = Jobs(self.database)
        self.retraining = Retraining(
            datasets,
            registry.models,
            registry.releases,
            self.rollouts,
            self.root / "work",
            self.train,
            self.evaluate,
            lambda task, release, target: 24_000,
        )

    def train(self, spec: TrainingSpec, work_dir: Path, on_progress: OnProgress | None = None) -> TrainingResult:
        self.call("train")
        assert on_progress is not None
        on_progress(TrainingProgress(stage="train", done=1, total=2))
        assert spec.parent == str(self.registry.models.directory(TASK, "v1"))
        assert spec.snapshot_sha256 == self.snapshot
        bundle = tiny_bundle(work_dir / "bundle", spec.version, seed=2)
        return TrainingResult(bundle=str(bundle.directory), metrics={}, best_epoch=1, rows=2, seconds={})

    def evaluate(self, bundle: Bundle, variant: Variant, data_dir: Path, progress: Progress) -> Evaluation:
        self.call(f"evaluate {bundle.manifest.version}")
        progress(1, 1)
        return Evaluation({"accuracy": self.values.get(bundle.manifest.version, 0.99)}, rows=50)

    def call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.die_at:
            self.die_at = None
            raise SystemExit(name)

    def run(self, **options: Any) -> dict[str, Any]:
        spec = RetrainSpec(task=TASK, data="/data", snapshot=self.snapshot, **options)
        self.job = self.jobs.add(KIND, msgspec.to_builtins(spec), owner="me")
        return self.go_on()

    def go_on(self) -> dict[str, Any]:
        return run_job(self.jobs, self.jobs.held(self.job), self.retraining.run)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_a_better_candidate_is_registered(lab: Lab) -> None:
    result = lab.run(version="v2")
    assert result["accepted"] is True
    assert result["incumbent"] == {"version": "v1", "value": 0.98, "by_variant": {"onnx-int8": 0.98}}
    assert result["candidate"] == {"version": "v2", "value": 0.99, "by_variant": {"onnx-int8": 0.99}}
    candidate = lab.registry.models.bundle(TASK, "v2")
    assert result["evaluated_sha256"] == candidate.manifest.file_entry("onnx-int8.onnx").sha256
    assert (result["rows"], result["release"], result["rollout"]) == (50, None, None)
    assert lab.registry.models.get(TASK, "v2").state == "evaluated"
    assert set(result["seconds"]) >= {"snapshot", "train", "evaluate incumbent", "evaluate candidate", "gate"}
    assert not (lab.root / "work" / f"retrain-{lab.job}").exists()


def test_a_worse_candidate_is_refused_and_leaves_nothing(lab: Lab) -> None:
    lab.values["v2"] = 0.97
    result = lab.run(version="v2", publish=True)
    assert result["accepted"] is False
    assert result["refusals"] == [
        "gate 'better onnx-int8': accuracy 0.97 is worse than 0.98 by 0.01, needed more than 0"
    ]
    assert [model.version for model in lab.registry.models.list()] == ["v1"]
    assert len(lab.registry.releases.list()) == 1
    assert not (lab.root / "work" / f"retrain-{lab.job}").exists()


def test_a_candidate_that_fails_its_golden_vectors_is_refused(lab: Lab) -> None:
    def other_weights(spec: TrainingSpec, work_dir: Path, on_progress: OnProgress | None = None) -> TrainingResult:
        good, bad = tiny_bundle(work_dir / "good", "v2", seed=2), tiny_bundle(work_dir / "bad", "v2", seed=3)
        files = {entry.path: good.path(entry.path).read_bytes() for entry in good.manifest.files}
        files["golden.npz"] = bad.path("golden.npz").read_bytes()
        write_bundle(work_dir / "bundle", good.manifest, files)
        return TrainingResult(bundle="", metrics={}, best_epoch=1, rows=2, seconds={})

    object.__setattr__(lab.retraining, "train", other_weights)
    result = lab.run(version="v2")
    assert not result["accepted"]
    assert "gate 'golden'" in result["refusals"][0]


def test_accepted_means_signed_and_on_its_way(lab: Lab) -> None:
    with lab.database.transaction() as session:
        for vehicle in ("car-1", "car-2"):
            slots = {"sign": release_ref(lab.release)}
            desired.assign(session, session.get_one(Vehicle, vehicle), slots, Policy())
    result = lab.run(version="v2", rollout=RolloutRequest(waves=("1", "100%")))
    assert result["release"] == 2
    view = lab.rollouts.show(result["rollout"])
    assert (view.spec.release.version, view.spec.wave_sizes, view.state) == ("v2", (1, 1), "running")


@pytest.mark.parametrize("die_at", ["train", "evaluate v1", "evaluate v2"])
def test_a_worker_that_dies_costs_the_step_it_was_in(lab: Lab, die_at: str) -> None:
    lab.die_at = die_at
    with pytest.raises(SystemExit):
        lab.run(version="v2", publish=True)
    result = lab.go_on()
    assert (result["accepted"], result["release"]) == (True, 2)
    assert sorted(lab.calls) == sorted(["train", "evaluate v1", "evaluate v2", die_at])


def test_a_step_after_registration_is_repeatable(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    publish = lab.registry.releases.publish

    def dies(*_: object, **__: object) -> None:
        publish(TASK, "v2")
        raise SystemExit("after signing")

    with monkeypatch.context() as patch:
        patch.setattr(lab.registry.releases, "publish", dies)
        with pytest.raises(SystemExit):
            lab.run(version="v2", publish=True)
    assert lab.go_on()["release"] == 2
    assert [row.release for row in lab.registry.releases.list()] == [1, 2]


def test_the_same_rows_from_the_same_start_are_not_trained_on_again(lab: Lab) -> None:
    lab.values["v2"] = 0.97
    lab.run(version="v2")
    calls = len(lab.calls)
    result = lab.run(version="v3", learned=(f"v1 {lab.snapshot}",))
    assert len(lab.calls) == calls
    assert not result["accepted"]
    assert result["refusals"] == [f"gate 'news': snapshot {lab.snapshot[:12]} was trained on from v1 before"]


def test_what_is_wrong_is_said_before_anything_is_trained(lab: Lab) -> None:
    with pytest.raises(NotFoundError, match="v7"):
        lab.run(incumbent="v7")
    other = lab.snapshots.staging()
    write_speeds(other, SpeedRows(np.arange(3), np.ones((3, 2), dtype=np.float32), ("0", "1")))
    lab.snapshot = lab.snapshots.keep(other, "traffic-speed", Content(3, {}, {})).sha256
    with pytest.raises(ConfigError, match="traffic-speed"):
        lab.run()
    assert lab.calls == []


def test_a_training_that_fails_is_tried_again(lab: Lab) -> None:
    def failing(*_: object) -> TrainingResult:
        raise FailedError("no memory")

    object.__setattr__(lab.retraining, "train", failing)
    with pytest.raises(FailedError):
        lab.run(version="v2")
    assert lab.jobs.get(lab.job).state == "queued"
