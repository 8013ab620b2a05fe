"""The retraining job on real registry, releases and rollouts; training itself is a fake that writes bundles."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from roadloop_cloud.config import RolloutConfig
from roadloop_cloud.datasets.service import Datasets, Selection
from roadloop_cloud.datasets.snapshot import Content, Snapshot, Snapshots
from roadloop_cloud.explain.rows import Row
from roadloop_cloud.explain.service import PICTURE, Explanation, Show
from roadloop_cloud.fleet import desired
from roadloop_cloud.gate.bounds import bounds_of
from roadloop_cloud.gate.records import Records
from roadloop_cloud.gate.service import Gate
from roadloop_cloud.jobs import Jobs, run_job
from roadloop_cloud.labels.teacher import TeachSpec
from roadloop_cloud.registry.releases import release_ref
from roadloop_cloud.retrain.pipeline import KIND, Retraining, RetrainSpec, RolloutRequest
from roadloop_cloud.retrain.steps import taught_by
from roadloop_cloud.rollout.service import Rollouts
from roadloop_cloud.rollout.statements import Operators
from roadloop_cloud.store.ingest_tables import Vehicle
from roadloop_cloud.training.compress.settings import Compression
from roadloop_cloud.training.run import OnProgress
from roadloop_cloud.training.spec import Rounding, TrainingProgress, TrainingResult, TrainingSpec
from roadloop_models.bundle import Bundle, Lineage, Variant, write_bundle
from roadloop_models.contract.messages import Policy
from roadloop_models.errors import BundleError, ConfigError, FailedError, NotFoundError, RoadloopError
from roadloop_models.tasks import Disturbance, Evaluation, Progress
from roadloop_models.tasks.made_signs import made_signs
from roadloop_models.tasks.sign_data import FOLDER, TEST_FILE, TRAIN_FILE, write_signs
from roadloop_models.tasks.speed_data import SpeedRows, write_speeds
from tests.fakes.bundles import tiny_bundle
from tests.fakes.cloud import add_vehicle
from tests.fakes.datasets import make_datasets
from tests.fakes.registry import Registry

TASK = "traffic-sign"
ROWS = 1000


@dataclass
class Lab:
    """The pipeline; `value` of a version is what its evaluation finds, `die_at` the call at which a worker dies."""

    root: Path
    values: dict[str, float] = field(default_factory=lambda: {"v1": 0.98})
    calls: list[str] = field(default_factory=list)
    die_at: str | None = None
    unexplained: RoadloopError | None = None

    def __post_init__(self) -> None:
        self.data, self.records = self.root / "data", Records(self.root / "evaluations")
        registry = Registry(self.root).create()
        self.registry, self.database = registry, registry.database
        for vehicle in ("car-1", "car-2"):
            add_vehicle(registry.database, vehicle)
        registry.models.register(tiny_bundle(self.root / "v1", "v1", seed=1, lineage=Lineage(data="made")).directory)
        self.release = registry.releases.publish(TASK, "v1")
        self.snapshots = Snapshots(self.root / "snapshots")
        staging = self.snapshots.staging()
        write_signs(staging / FOLDER / TRAIN_FILE, made_signs(1, 1, seed=1))
        self.snapshot = self.snapshots.keep(staging, TASK, Content(43, {"car-1": 43}, {})).sha256
        write_signs(self.data / FOLDER / TRAIN_FILE, made_signs(1, 1, seed=2))
        write_signs(self.data / FOLDER / TEST_FILE, made_signs(1, 1, seed=3))
        self.rollouts = Rollouts(
            self.database, registry.releases, RolloutConfig(), lambda: 0.0, Operators(self.root / "operators")
        )
        datasets = make_datasets(
            self.database, self.snapshots, lambda _: pytest.fail("not read"), Path, lambda _: pytest.fail("not asked")
        )
        self.jobs = Jobs(self.database)
        self.retraining = Retraining(
            datasets,
            registry.models,
            registry.releases,
            self.rollouts,
            self.root / "work",
            self.teach,
            self.train,
            Gate(
                self.evaluate,
                bounds_of,
                lambda task, version: registry.models.bundle(task, version).manifest,
                lambda sha256: datasets.show(sha256).directory,
                dict,
                lambda before, after, key: (100.0, 100.0),
            ),
            self.records,
            self.explain,
            lambda task, release, target: 24_000,
        )

    def teach(self, spec: TeachSpec, show: Show) -> dict[str, Any]:
        self.call("teach")
        assert (spec.task, spec.unlabelled) == (TASK, True)
        return {"by": f"teacher {spec.teachers[0]}", "labelled": 3, "damaged": 0, "disagreed": 1}

    def train(self, spec: TrainingSpec, work_dir: Path, on_progress: OnProgress | None = None) -> TrainingResult:
        self.call("train")
        assert on_progress is not None
        on_progress(TrainingProgress(stage="train", done=1, total=2))
        assert spec.parent == str(self.registry.models.directory(TASK, "v1"))
        assert spec.snapshot_sha256 == self.snapshot
        lineage = Lineage(spec.snapshot_sha256, "v1", "train", spec.data_name)
        bundle = tiny_bundle(work_dir / "bundle", spec.version, seed=2, lineage=lineage)
        return TrainingResult(bundle=str(bundle.directory), metrics={}, best_epoch=1, rows=2, seconds={})

    def evaluate(
        self,
        bundle: Bundle,
        variant: Variant,
        data_dir: Path,
        progress: Progress,
        disturbance: Disturbance | None = None,
    ) -> Evaluation:
        if disturbance is None:
            self.call(f"evaluate {bundle.manifest.version}")
        progress(1, 1)
        accuracy = self.values.get(bundle.manifest.version, 0.99)
        losses = (np.arange(ROWS) >= accuracy * ROWS).astype(np.float32)
        return Evaluation({"accuracy": accuracy}, rows=ROWS, losses=losses)

    def explain(
        self,
        bundle: Bundle,
        variant: Variant,
        data_dir: Path,
        evaluation: Evaluation,
        folder: Path,
        *,
        count: int,
        step: Show,
    ) -> Explanation:
        self.call(f"explain {bundle.manifest.version}")
        assert (variant.key, evaluation.rows, data_dir) == ("onnx-int8", ROWS, self.data)
        if self.unexplained is not None:
            raise self.unexplained
        assert folder == self.records.of(TASK, bundle.manifest.version)
        (folder / PICTURE).write_bytes(b"a picture")
        return Explanation((Row(0, "stop", None, 0, (0,)),) * count, {}, np.zeros(count, dtype=np.float32))

    def call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.die_at:
            self.die_at = None
            raise SystemExit(name)

    def run(self, **options: Any) -> dict[str, Any]:
        spec = RetrainSpec(task=TASK, data=str(self.data), snapshot=self.snapshot, **options)
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
    assert (result["rows"], result["release"], result["rollout"]) == (ROWS, None, None)
    assert lab.registry.models.get(TASK, "v2").state == "evaluated"
    assert set(result["seconds"]) >= {"snapshot", "train", "evaluate incumbent", "evaluate candidate", "gate"}
    assert not (lab.root / "work" / f"retrain-{lab.job}").exists()


def test_a_smaller_candidate_is_asked_of_training_as_it_was_asked_for(lab: Lab) -> None:
    asked: list[TrainingSpec] = []

    def train(spec: TrainingSpec, work_dir: Path, on_progress: OnProgress | None = None) -> TrainingResult:
        asked.append(spec)
        return lab.train(spec, work_dir, on_progress)

    object.__setattr__(lab.retraining, "train", train)
    smaller = Compression(method="prune", share=0.5)
    assert lab.run(version="v2", compress=smaller, qat_above=0.001)["accepted"]
    assert [(spec.compress, spec.qat_above) for spec in asked] == [(smaller, None)], "the gate has not refused it"
    assert str(asked[0].command).endswith("--compress prune --share 0.5 --qat-above 0.001")


@pytest.mark.parametrize("name", ["v1", "1"])
def test_a_teacher_by_version_or_release_labels_before_the_snapshot_is_built(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def build(_: object, selection: Selection) -> Snapshot:
        lab.call("snapshot")
        return lab.snapshots.open(lab.snapshot)

    monkeypatch.setattr(Datasets, "build", build)
    lab.die_at = "teach"
    spec = RetrainSpec(task=TASK, data=str(lab.data), version="v2", teacher=name)
    lab.job = lab.jobs.add(KIND, msgspec.to_builtins(spec), owner="me")
    with pytest.raises(SystemExit):
        lab.go_on()
    result = lab.go_on()
    assert lab.calls[:4] == ["teach", "teach", "snapshot", "train"]
    assert result["taught"] == {"by": "teacher v1", "labelled": 3, "damaged": 0, "disagreed": 1}
    assert taught_by(lab.jobs.get(lab.job).steps) == "teacher v1"


def test_a_teacher_that_cannot_teach_is_refused_before_anything_is_done(lab: Lab) -> None:
    with pytest.raises(NotFoundError, match=r"teacher 'big': no version and no release .* versions v1 and releases 1"):
        lab.retraining.check(RetrainSpec(task=TASK, data="/data", teacher="big"))
    with pytest.raises(NotFoundError, match="no teacher for 'traffic-speed'; there are teachers for traffic-sign"):
        lab.retraining.check(RetrainSpec(task="traffic-speed", data="/data", teacher="v1"))
    with pytest.raises(ConfigError, match="leave out the snapshot"):
        lab.run(version="v2", teacher="v1")
    assert lab.calls == []


def test_what_a_spec_does_not_know_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="teachr"):
        msgspec.convert({"task": TASK, "data": "/data", "teachr": "v1"}, RetrainSpec)


class Rounded:
    """Training of which int8 loses 0.02, and whose candidate is worse until it was trained on aware of that."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.asked = lab, list[TrainingSpec]()
        lab.values["v2"] = 0.97
        object.__setattr__(lab.retraining, "train", self)

    def __call__(self, spec: TrainingSpec, work_dir: Path, on_progress: OnProgress | None = None) -> TrainingResult:
        self.asked.append(spec)
        if (work_dir / "bundle").exists():  # as the real one: killed before its result was written down
            shutil.rmtree(work_dir / "bundle")
        result = self.lab.train(spec, work_dir, on_progress)
        if spec.qat_above is None:
            return result
        rounding = Rounding(lost=0.02, trained_on=spec.qat_above < 0.02)
        if rounding.trained_on:
            self.lab.values["v2"] = 0.99
        self.lab.call("rounded")
        return msgspec.structs.replace(result, rounding=rounding)


def test_a_candidate_refused_where_int8_lost_too_much_is_trained_on_aware_of_it_once(lab: Lab) -> None:
    rounded = Rounded(lab)
    result = lab.run(version="v2", qat_above=0.01, publish=True)
    assert [spec.qat_above for spec in rounded.asked] == [None, 0.01]
    assert msgspec.structs.replace(rounded.asked[1], qat_above=None) == rounded.asked[0], "it is the same training"
    assert result["quantization_aware"] == {"allowed": 0.01, "lost": 0.02, "trained_on": True}
    assert (result["accepted"], result["candidate"]["value"], result["release"]) == (True, 0.99, 2)
    steps = lab.jobs.get(lab.job).steps
    assert [name for name in steps if name.endswith(" again")] == ["evaluate candidate again", "gate again"]


def test_a_candidate_that_is_still_refused_is_not_trained_on_again(lab: Lab) -> None:
    rounded = Rounded(lab)
    lab.values["v1"] = 0.995
    result = lab.run(version="v2", qat_above=0.01)
    assert len(rounded.asked) == 2
    assert (result["accepted"], result["candidate"]["value"]) == (False, 0.99)


def test_a_refused_candidate_of_which_int8_lost_little_is_not_judged_again(lab: Lab) -> None:
    Rounded(lab)
    result = lab.run(version="v2", qat_above=0.03)
    assert result["quantization_aware"] == {"allowed": 0.03, "lost": 0.02, "trained_on": False}
    assert not result["accepted"]
    assert lab.calls.count("evaluate v2") == 1


def test_a_candidate_refused_for_something_else_is_not_trained_on(lab: Lab) -> None:
    rounded = Rounded(lab)
    write_signs(lab.data / FOLDER / TEST_FILE, made_signs(1, 1, seed=1))  # the snapshot's own rows
    result = lab.run(version="v2", qat_above=0.01)
    assert any("held-out" in refusal for refusal in result["refusals"])
    assert (len(rounded.asked), result["quantization_aware"]) == (1, None)


def test_a_worker_that_dies_while_it_is_trained_on_begins_that_again(lab: Lab) -> None:
    rounded = Rounded(lab)
    lab.die_at = "rounded"
    with pytest.raises(SystemExit):
        lab.run(version="v2", qat_above=0.01)
    result = lab.go_on()
    assert [spec.qat_above for spec in rounded.asked] == [None, 0.01, 0.01]
    assert result["accepted"]


def test_a_task_that_cannot_be_trained_aware_of_int8_is_refused(lab: Lab) -> None:
    with pytest.raises(ConfigError, match="qat_above: traffic-speed cannot .*; traffic-sign can"):
        lab.retraining.check(RetrainSpec(task="traffic-speed", data="/data", qat_above=0.001))


def test_a_worse_candidate_is_refused_and_leaves_nothing(lab: Lab) -> None:
    lab.values["v2"] = 0.97
    result = lab.run(version="v2", publish=True)
    assert result["accepted"] is False
    assert result["refusals"] == [
        "gate 'better onnx-int8': accuracy 0.97 is worse than 0.98 by 0.01, needed more than 0 "
        "(1000 rows count as 1000)"
    ]
    assert [model.version for model in lab.registry.models.list()] == ["v1"]
    assert len(lab.registry.releases.list()) == 1
    assert not (lab.root / "work" / f"retrain-{lab.job}").exists()


def test_a_candidate_that_fails_its_golden_vectors_is_refused(lab: Lab) -> None:
    def other_weights(spec: TrainingSpec, work_dir: Path, on_progress: OnProgress | None = None) -> TrainingResult:
        lineage = Lineage(spec.snapshot_sha256, "v1")
        good = tiny_bundle(work_dir / "good", "v2", seed=2, lineage=lineage)
        bad = tiny_bundle(work_dir / "bad", "v2", seed=3)
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


@pytest.mark.parametrize("die_at", ["train", "evaluate v1", "evaluate v2", "explain v2"])
def test_a_worker_that_dies_costs_the_step_it_was_in(lab: Lab, die_at: str) -> None:
    lab.die_at = die_at
    with pytest.raises(SystemExit):
        lab.run(version="v2", publish=True)
    result = lab.go_on()
    assert (result["accepted"], result["release"]) == (True, 2)
    assert sorted(lab.calls) == sorted(["train", "evaluate v1", "evaluate v2", "explain v2", die_at])


def test_an_accepted_candidate_is_explained_and_its_card_shows_it(lab: Lab) -> None:
    result = lab.run(version="v2", publish=True)
    assert result["explained"] == {"variant": "onnx-int8", "rows": 6, "why": None}
    card = lab.records.of(TASK, "v2") / "card"
    assert f"({PICTURE})" in (card / "MODEL_CARD.md").read_text()
    assert (card / PICTURE).read_bytes() == b"a picture"
    assert list(lab.jobs.get(lab.job).steps)[-4:] == ["register", "explain", "card", "publish"]


@pytest.mark.parametrize(
    "error", [NotFoundError("nothing explains it"), BundleError("no weights"), FailedError("no memory")]
)
def test_what_cannot_be_explained_is_told_and_released_all_the_same(lab: Lab, error: RoadloopError) -> None:
    lab.unexplained = error
    result = lab.run(version="v2", publish=True)
    assert result["explained"] == {"variant": "onnx-int8", "rows": 0, "why": str(error)}
    assert result["release"] == 2
    assert PICTURE not in (lab.records.of(TASK, "v2") / "card" / "MODEL_CARD.md").read_text()


def test_a_refused_candidate_is_not_explained(lab: Lab) -> None:
    lab.values["v2"] = 0.97
    assert lab.run(version="v2")["explained"] is None
    assert "explain v2" not in lab.calls


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
