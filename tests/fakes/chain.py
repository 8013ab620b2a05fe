"""The chain of a generation on real registry, releases, rollouts and training's calling side; its trainer is quick."""

import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import numpy as np

from roadloop_cloud.cards.card import CARD_FOLDER, PAGE
from roadloop_cloud.config import RolloutConfig
from roadloop_cloud.datasets.service import Datasets
from roadloop_cloud.datasets.snapshot import Content, Snapshots
from roadloop_cloud.explain import service as explaining
from roadloop_cloud.explain.attribution import Target
from roadloop_cloud.fleet import desired
from roadloop_cloud.gate.bounds import bounds_of
from roadloop_cloud.gate.records import Records
from roadloop_cloud.gate.service import Gate
from roadloop_cloud.jobs import FAILED, Jobs, run_job
from roadloop_cloud.registry.releases import release_ref
from roadloop_cloud.retrain.pipeline import KIND, Retraining, RetrainSpec, RolloutRequest
from roadloop_cloud.rollout.service import Rollouts
from roadloop_cloud.rollout.statements import Operators
from roadloop_cloud.store.database import Database
from roadloop_cloud.store.fleet_tables import Job
from roadloop_cloud.store.ingest_tables import Vehicle
from roadloop_cloud.training.executors import EXECUTORS
from roadloop_cloud.training.run import run_training
from roadloop_models.bundle import Bundle, Lineage, Variant
from roadloop_models.contract.messages import Policy
from roadloop_models.runners import FloatArray
from roadloop_models.tasks import Disturbance, Evaluation, Progress
from roadloop_models.tasks.made_signs import made_signs
from roadloop_models.tasks.sign_data import FOLDER, TEST_FILE, TRAIN_FILE, write_signs
from tests.fakes.bundles import tiny_bundle
from tests.fakes.cloud import add_vehicle
from tests.fakes.quick_trainer import LOST, ROUNDED_SEED, QuickExecutor
from tests.fakes.registry import Client, Registry

TASK = "traffic-sign"
VEHICLES = ("car-1", "car-2")
ROWS = 1000


class Chain:
    """A workspace whose release 1 runs on two vehicles, and one queued generation that shall be released to them."""

    def __init__(self, root: Path, database: Database | None = None, *, rounded: bool = False) -> None:
        """`database`: an empty one instead of SQLite. `rounded`: the gate refuses what is not trained aware of int8."""
        self.root, self.rounded = root, rounded
        self.registry = Registry(root).create()
        if database is not None:
            self.registry.database = self.registry.models._database = self.registry.releases._database = database
        self.database = self.registry.database
        self.life = 0
        for vehicle in VEHICLES:
            add_vehicle(self.database, vehicle)
        self.registry.models.register(tiny_bundle(root / "v1", "v1", seed=1, lineage=Lineage(data="made")).directory)
        release = self.registry.releases.publish(TASK, "v1")
        with self.database.transaction() as session:
            for vehicle in VEHICLES:
                row = session.get_one(Vehicle, vehicle)
                desired.assign(session, row, {"sign": release_ref(release)}, Policy())
        snapshots = Snapshots(root / "snapshots")
        staging = snapshots.staging()
        write_signs(staging / FOLDER / TRAIN_FILE, made_signs(1, 1, seed=1))
        self.snapshot = snapshots.keep(staging, TASK, Content(43, {"car-1": 43}, {})).sha256
        data, models = root / "data", self.registry.models
        write_signs(data / FOLDER / TRAIN_FILE, made_signs(1, 1, seed=2))
        write_signs(data / FOLDER / TEST_FILE, made_signs(1, 24, seed=3))  # a row for each of ROWS
        self.rollouts = Rollouts(
            self.database, self.registry.releases, RolloutConfig(), lambda: 0.0, Operators(root / "operators")
        )
        datasets = _Shown(snapshots)
        self.records = Records(root / "evaluations")
        self.retraining = Retraining(
            datasets,
            models,
            self.registry.releases,
            self.rollouts,
            root / "work",
            lambda spec, show: {"by": "teacher v1", "labelled": 2, "damaged": 0, "disagreed": 1},
            run_training,
            Gate(
                self._evaluate,
                bounds_of,
                lambda task, version: models.bundle(task, version).manifest,
                lambda sha256: datasets.show(sha256).directory,
                dict,
                lambda before, after, key: (100.0, 100.0),
            ),
            self.records,
            explaining.explain,
            lambda task, release, target: 24_000,
        )
        self.jobs = Jobs(self.database, self._now)
        spec = RetrainSpec(
            task=TASK,
            data=str(data),
            snapshot=self.snapshot,
            version="v2",
            qat_above=LOST / 2 if rounded else None,
            rollout=RolloutRequest(waves=("1", "100%")),
        )
        self.job = self.jobs.add(KIND, msgspec.to_builtins(spec))
        self.client = Client(root / "repository", root / "memory")

    def _evaluate(
        self,
        bundle: Bundle,
        variant: Variant,
        data_dir: Path,
        progress: Progress,
        disturbance: Disturbance | None = None,
    ) -> Evaluation:
        progress(1, 1)
        accuracy = {"v1": 0.98, "v2": 0.99}[bundle.manifest.version]
        if self.rounded and bundle.manifest.version == "v2" and bundle.manifest.golden.seed != ROUNDED_SEED:
            accuracy = 0.97
        losses = (np.arange(ROWS) >= accuracy * ROWS).astype(np.float32)
        return Evaluation({"accuracy": accuracy}, rows=ROWS, losses=losses)

    def _now(self) -> datetime:
        """Each life begins when the lease of the one before it has run out."""
        return datetime(2026, 3, 1, tzinfo=UTC) + timedelta(minutes=10 * self.life)

    def work(self) -> dict[str, Any]:
        """One life of a worker that finds the job."""
        self.life += 1
        held = self.jobs.claim(f"worker-{self.life}", [KIND])
        if held is None:
            assert self.row.state == FAILED, f"nothing to do: {self.row.state}"
            return {}  # given up: as many workers have died in one step as a job may cost
        quick = mock.patch.dict(EXECUTORS, {"local": QuickExecutor()})
        with quick, mock.patch.object(explaining, "attribute", _attribute):
            return run_job(self.jobs, held, self.retraining.run)

    def work_in_a_child(self, around: Callable[[], Any] | None = None) -> bool:
        """The same in a child, inside of a context that may kill it; whether it was killed. Raises AssertionError
        where the child failed otherwise."""
        child = os.fork()
        if child == 0:
            status = 1
            try:
                self.database.engine.dispose(close=False)
                with around() if around is not None else _nothing():
                    self.work()
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        self.life += 1
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return True
        assert os.WEXITSTATUS(status) == 0, f"the work failed: {self.row.error}"
        return False

    @property
    def row(self) -> Job:
        """The job."""
        return self.jobs.get(self.job)

    @property
    def trainings(self) -> int:
        """How many came to their end."""
        log = self.root / "work" / "trainings"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def check(self) -> None:
        """What must hold at every moment: a vehicle finds all of a release or nothing of it, and whatever is said to
        be registered, explained or published is there, whole. Raises AssertionError, BundleError."""
        names = ("manifest.json", "onnx-int8.onnx", "golden.npz", "labels.txt")
        assert self.client.complete(f"{TASK}/2", names) in (0, len(names)), "published half"
        for model in self.registry.models.list(TASK):
            assert self.registry.models.bundle(TASK, model.version).manifest_sha256 == model.manifest_sha256
        for release in self.registry.releases.list(TASK):
            assert self.client.signs(f"{TASK}/{release.release}/manifest.json")
        self._check_explained()
        assert self.trainings <= 1 + self.rounded, "trained twice"
        assert len(self.rollouts.list()) <= 1, "rolled out twice"

    def _check_explained(self) -> None:
        kept = self.records.of(TASK, "v2")
        if (kept / explaining.PICTURE).exists():
            assert (kept / explaining.PICTURE).read_bytes().endswith(b"IEND\xaeB`\x82"), "half a picture"
            with np.load(kept / explaining.MAPS, allow_pickle=False) as maps:
                assert len(maps["index"]) > 0
        page = kept / CARD_FOLDER / PAGE
        if page.parent.exists():
            for name in re.findall(r"!\[.*?\]\((.*?)\)", page.read_text()):
                assert (page.parent / name).exists(), f"half a card: {name} is missing"

    def check_end(self) -> None:
        """It has come to its end as if nothing had happened."""
        self.check()
        row = self.row
        assert row.state == "done", row.error
        assert row.result is not None
        assert (row.result["accepted"], row.result["release"]) == (True, 2)
        assert [one.release for one in self.registry.releases.list(TASK)] == [1, 2]
        assert [view.id for view in self.rollouts.list()] == [row.result["rollout"]]
        assert self.trainings == 1 + self.rounded
        assert row.result["explained"]["rows"] > 0
        page = self.records.of(TASK, "v2") / CARD_FOLDER / PAGE
        assert f"]({explaining.PICTURE})" in page.read_text(), "the card does not show the explanation"
        assert not (self.root / "work" / f"{KIND}-{self.job}").exists()


class _Shown(Datasets):
    """The snapshots that are there; none is built."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots


def _attribute(
    bundle: Bundle, data_dir: Path, inputs: Sequence[tuple[FloatArray, ...]], targets: Sequence[Target], folder: Path
) -> tuple[list[list[FloatArray]], FloatArray]:
    """In the place of the process with torch: a tiny bundle has no training weights."""
    return [list(row) for row in inputs], np.zeros(len(inputs), dtype=np.float32)


@contextmanager
def _nothing() -> Iterator[None]:
    yield
