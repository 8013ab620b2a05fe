"""The job `retrain`: teach, snapshot, train from the incumbent, quantize, evaluate, gate, register, explain, publish,
roll out.

Every step is repeatable and its result is recorded, so a worker that dies costs the step it was in.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec

from roadloop_cloud.cards.card import keep_card
from roadloop_cloud.datasets.service import Datasets, Selection
from roadloop_cloud.explain.service import Explain
from roadloop_cloud.gate.examine import read_examined
from roadloop_cloud.gate.figures import Figures, GateResult, VariantFigures, Verdict
from roadloop_cloud.gate.held_out import TrainedOn
from roadloop_cloud.gate.records import Record, Records
from roadloop_cloud.gate.service import Gate, Judged
from roadloop_cloud.jobs import Work
from roadloop_cloud.labels.teacher import Show, TeachSpec, check_task
from roadloop_cloud.registry.models import ModelRegistry
from roadloop_cloud.registry.releases import Releases
from roadloop_cloud.retrain.rounding import may_be_rounding
from roadloop_cloud.retrain.steps import CARD, DELIVERY, EXPLAIN, PUBLISH, QAT, TEACH, TimedSteps
from roadloop_cloud.rollout.service import Rollouts, Settings, Target
from roadloop_cloud.training.compress.settings import ROUNDABLE, Compression
from roadloop_cloud.training.eta import in_words
from roadloop_cloud.training.run import BUNDLE_FOLDER, OnProgress
from roadloop_cloud.training.spec import DataSource, ExecutorName, TrainingProgress, TrainingResult, TrainingSpec
from roadloop_models.bundle import Bundle
from roadloop_models.bundle.manifest import Name
from roadloop_models.errors import BundleError, ConfigError, DataError, FailedError, NotFoundError
from roadloop_models.tasks import get_task
from roadloop_models.typed import from_builtins

KIND = "retrain"
EXPLAINED_ROWS = 6
_BEFORE, _AFTER = "seen-incumbent", "seen-candidate"
"""What was seen of either model, row by row, below the job's folder."""
_FIRST_BUNDLE = "bundle-refused"
"""The candidate that was refused, where it is trained on."""


class RolloutRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take an accepted candidate to these vehicles; nobody named means all."""

    waves: tuple[str, ...]
    vehicles: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


class RetrainSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a retraining is asked for. Paths are absolute."""

    task: Name
    data: str
    """The data folder whose test rows judge incumbent and candidate; none of them is trained on."""
    snapshot: str | None = None
    """An existing snapshot; None: build one from all that is stored."""
    labels: str | None = None
    teacher: str | None = None
    """A registered version, or the number of a release: it labels captured items that have no label, before the
    snapshot is built."""
    base: DataSource | None = None
    """Rows trained on beside the snapshot, so that what the incumbent knew is not forgotten."""
    replay_share: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    """Share of the batches, and weight in validation, of `base`, or without it of the incumbent's own snapshot."""
    incumbent: Name | None = None
    """Version to start from and to beat; None: what the fleet runs."""
    version: Name | None = None
    margin: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """By how much it must be better, in the metric's own unit; None: what the workspace says of the task's gate."""
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    epochs: Annotated[int, msgspec.Meta(ge=1)] | None = None
    threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    executor: ExecutorName = "local"
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    compress: Compression | None = None
    """Make the candidate a smaller network, with the incumbent as its teacher."""
    qat_above: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """A candidate that the gate refuses is trained on quantization-aware, once, and judged again, where int8 loses
    more than this on validation rows, in that score's own unit."""
    publish: bool = False
    rollout: RolloutRequest | None = None
    learned: tuple[str, ...] = ()
    """`<incumbent> <snapshot>` of trainings before: the same rows from the same start would bring the same again."""


class Teach(Protocol):
    """Lets a teacher label what was captured; labels/teacher.py is the real one."""

    def __call__(self, spec: TeachSpec, show: Show) -> dict[str, Any]:
        """See Teaching.teach."""
        ...


class Delivery(Protocol):
    """What a rollout's vehicles will have to fetch, together; rollout/previews.py knows it."""

    def __call__(self, task: str, release: int, target: Target) -> int:
        """In bytes, with the patches that fit them."""
        ...


class Train(Protocol):
    """Trains, quantizes and writes `work_dir / "bundle"`; training/run.py is the real one."""

    def __call__(self, spec: TrainingSpec, work_dir: Path, on_progress: OnProgress | None = None) -> TrainingResult:
        """See run_training."""
        ...


@dataclass(frozen=True)
class Retraining:
    """The services that a retraining needs; `run` is the job's handler."""

    datasets: Datasets
    models: ModelRegistry
    releases: Releases
    rollouts: Rollouts
    work_folder: Path
    teach: Teach
    train: Train
    gate: Gate
    records: Records
    explain: Explain
    delivery: Delivery
    clock: Callable[[], float] = time.monotonic

    def run(self, work: Work) -> dict[str, Any]:
        """Do it all, or go on with what an earlier attempt left. Raises what the steps raise."""
        spec = from_builtins(work.job.spec, RetrainSpec)
        folder = self.work_folder / f"{KIND}-{work.job.id}"
        timed = TimedSteps(work, self.clock)
        named = timed.step("begin", lambda: self._names(spec, work.job.id))
        taught = None
        if "teacher" in named:
            taught = timed.step(TEACH, lambda: self._teach(spec, named["teacher"], work))
        snapshot = timed.step("snapshot", lambda: self._snapshot(spec))
        if f"{named['incumbent']} {snapshot['sha256']}" in spec.learned:
            return _result(spec, named, _nothing_new(named, snapshot), {}, {}) | {
                "taught": taught,
                "snapshot": snapshot,
                "release": None,
                "rollout": None,
                "seconds": timed.seconds(),
            }
        trained = timed.step("train", lambda: _trained(self._train(spec, named, snapshot["sha256"], folder, work)))
        before = timed.step(
            "evaluate incumbent",
            lambda: self._figures(spec, self.models.bundle(spec.task, named["incumbent"]), folder / _BEFORE, work),
        )

        def judged(again: str) -> tuple[dict[str, Any], Verdict]:
            figures = timed.step(
                f"evaluate candidate{again}",
                lambda: self._figures(spec, Bundle.open(folder / BUNDLE_FOLDER), folder / _AFTER, work),
            )
            found = timed.step(f"gate{again}", lambda: self._judge(spec, named, folder, before, figures))
            return figures, from_builtins(found, Verdict)

        after, verdict = judged("")
        rounded = None
        if spec.qat_above is not None and may_be_rounding(verdict):
            rounded = timed.step(QAT, lambda: self._train_rounded(spec, named, snapshot["sha256"], folder, work))
            if rounded["trained_on"]:
                after, verdict = judged(" again")
        explained, release, rollout = None, None, None
        if verdict.accepted:
            timed.step("register", lambda: self._register(spec, named, folder, after, verdict))
            explained = timed.step(
                EXPLAIN, lambda: self._explain(spec, named, folder, verdict.deciding, work, figures=_typed(after))
            )
            timed.step(CARD, lambda: str(keep_card(self.models.bundle(spec.task, named["candidate"]), self.records)))
            if spec.publish or spec.rollout is not None:
                publish = partial(self.releases.publish, spec.task, named["candidate"], step=work.progress)
                release = timed.step(PUBLISH, lambda: publish().release)
            if (wanted := spec.rollout) is not None and release is not None:
                timed.step(DELIVERY, partial(self.delivery, spec.task, release, _target(wanted)))
                rollout = timed.step("rollout", partial(self._roll_out, spec, wanted, release))
        shutil.rmtree(folder, ignore_errors=True)
        return {
            **_result(spec, named, verdict, before, after),
            "taught": taught,
            "snapshot": snapshot,
            "training": trained,
            "quantization_aware": rounded,
            "explained": explained,
            "release": release,
            "rollout": rollout,
            "seconds": timed.seconds(),
        }

    def _names(self, spec: RetrainSpec, job_id: int) -> dict[str, str]:
        teacher = self.check(spec)
        incumbent = spec.incumbent or self.releases.incumbent(spec.task).version
        named = {"incumbent": incumbent, "candidate": spec.version or f"{KIND}-{job_id}"}
        return named if teacher is None else named | {"teacher": teacher}

    def check(self, spec: RetrainSpec) -> str | None:
        """The version that teaches, where one is named. Raises what makes every generation of such a spec fail:
        NotFoundError (task or teacher), ConfigError."""
        get_task(spec.task)
        if spec.qat_above is not None and spec.task not in ROUNDABLE:
            able = ", ".join(ROUNDABLE)
            raise ConfigError(f"qat_above: {spec.task} cannot be trained quantization-aware; {able} can")
        if spec.teacher is None:
            return None
        check_task(spec.task)
        if spec.snapshot is not None:
            raise ConfigError("teacher: it labels what a new snapshot is built of; leave out the snapshot, or it")
        models = {model.version for model in self.models.list(spec.task)}
        releases = {str(one.release): one.version for one in self.releases.list(spec.task)}
        if spec.teacher not in models and spec.teacher not in releases:
            raise NotFoundError(
                f"teacher '{spec.teacher}': no version and no release of {spec.task}; there are versions "
                f"{', '.join(sorted(models)) or '(none)'} and releases {', '.join(releases) or '(none)'}"
            )
        return spec.teacher if spec.teacher in models else releases[spec.teacher]

    def _teach(self, spec: RetrainSpec, teacher: str, work: Work) -> dict[str, Any]:
        asked = TeachSpec(task=spec.task, teachers=(teacher,), unlabelled=True, threads=spec.threads)
        return self.teach(asked, work.progress)

    def _snapshot(self, spec: RetrainSpec) -> dict[str, Any]:
        if spec.snapshot is not None:
            snapshot = self.datasets.show(spec.snapshot)
            if snapshot.manifest.task != spec.task:
                raise ConfigError(f"snapshot {spec.snapshot}: is for {snapshot.manifest.task}, not {spec.task}")
        else:
            labels = None if spec.labels is None else Path(spec.labels)
            snapshot = self.datasets.build(Selection(spec.task, labels=labels, held_out=Path(spec.data)))
        manifest = snapshot.manifest
        return {
            "sha256": snapshot.sha256,
            "rows": manifest.rows,
            "sources": manifest.sources,
            "excluded": manifest.excluded,
        }

    def _train(
        self,
        spec: RetrainSpec,
        named: dict[str, str],
        snapshot: str,
        folder: Path,
        work: Work,
        *,
        qat_above: float | None = None,
    ) -> TrainingResult:
        def show(step: TrainingProgress) -> None:
            work.progress(in_words(step), step.done / step.total if step.total else None)

        parent = self.models.bundle(spec.task, named["incumbent"])
        folder.mkdir(parents=True, exist_ok=True)  # where a run that was killed left something, training goes on
        return self.train(
            TrainingSpec(
                task=spec.task,
                version=named["candidate"],
                data=DataSource(str(self.datasets.show(snapshot).directory)),
                parent=str(parent.directory),
                base=self._old_rows(spec, parent),
                replay_share=spec.replay_share,
                seed=spec.seed,
                epochs=spec.epochs,
                command=f"roadloop retrain --task {spec.task} --snapshot {snapshot[:12]} --seed {spec.seed}"
                + _smaller(spec),
                data_name="fleet",
                snapshot_sha256=snapshot,
                threads=spec.threads,
                executor=spec.executor,
                workers=spec.workers,
                compress=spec.compress,
                qat_above=qat_above,
            ),
            folder,
            show,
        )

    def _train_rounded(
        self, spec: RetrainSpec, named: dict[str, str], snapshot: str, folder: Path, work: Work
    ) -> dict[str, Any]:
        """The same training, which has its end already, and on from there where int8 loses more than allowed."""
        first = folder / _FIRST_BUNDLE
        if not first.exists():  # else an earlier attempt has made room already
            (folder / BUNDLE_FOLDER).rename(first)
        rounding = self._train(spec, named, snapshot, folder, work, qat_above=spec.qat_above).rounding
        assert rounding is not None
        return {"allowed": spec.qat_above, "lost": rounding.lost, "trained_on": rounding.trained_on}

    def _old_rows(self, spec: RetrainSpec, incumbent: Bundle) -> DataSource | None:
        """What is trained on beside the snapshot."""
        if spec.base is not None or spec.replay_share is None:
            return spec.base
        snapshot = incumbent.manifest.lineage.snapshot_sha256
        if snapshot is None:
            version = incumbent.manifest.version
            raise ConfigError(f"replay: {version} was trained on no snapshot of this workspace; name old rows (--base)")
        return DataSource(str(self.datasets.show(snapshot).directory))

    def _figures(self, spec: RetrainSpec, bundle: Bundle, rows: Path, work: Work) -> dict[str, Any]:
        figures = self.gate.examine(bundle, Path(spec.data), rows, work.progress)
        return {key: msgspec.to_builtins(value) for key, value in figures.items()}

    def _judge(
        self, spec: RetrainSpec, named: dict[str, str], folder: Path, before: dict[str, Any], after: dict[str, Any]
    ) -> dict[str, Any]:
        base = spec.base
        verdict = self.gate.judge(
            Judged(self.models.bundle(spec.task, named["incumbent"]), _typed(before), folder / _BEFORE),
            Judged(Bundle.open(folder / BUNDLE_FOLDER), _typed(after), folder / _AFTER),
            Path(spec.data),
            margin=spec.margin,
            also_trained_on=()
            if base is None
            else (TrainedOn("candidate", "the rows of --base", Path(base.directory), base.part),),
        )
        made: dict[str, Any] = msgspec.to_builtins(verdict)
        return made

    def _register(
        self, spec: RetrainSpec, named: dict[str, str], folder: Path, figures: dict[str, Any], verdict: Verdict
    ) -> str:
        row = self.models.register(folder / BUNDLE_FOLDER)
        self.models.record_evaluation(row.task, row.version, figures)
        self.records.keep(
            Record(
                task=row.task,
                version=row.version,
                data=spec.data,
                incumbent=named["incumbent"],
                figures=_typed(figures),
                verdict=verdict,
            ),
            folder / _AFTER,
        )
        return row.version

    def _explain(
        self,
        spec: RetrainSpec,
        named: dict[str, str],
        folder: Path,
        key: str,
        work: Work,
        *,
        figures: Figures,
    ) -> dict[str, Any]:
        """What the variant that decided looks at. A release is no worse for want of a picture: what cannot be
        explained is told, and the chain goes on."""
        bundle = self.models.bundle(spec.task, named["candidate"])
        variant = next(one for one in bundle.manifest.variants if one.key == key)
        evaluation = read_examined(figures, folder / _AFTER)[key].evaluation
        kept = self.records.of(spec.task, named["candidate"])
        data = Path(spec.data)
        try:
            found = self.explain(bundle, variant, data, evaluation, kept, count=EXPLAINED_ROWS, step=work.progress)
        except (NotFoundError, BundleError, DataError, FailedError) as error:
            return {"variant": key, "rows": 0, "why": str(error)}
        return {"variant": key, "rows": len(found.rows), "why": None}

    def _roll_out(self, spec: RetrainSpec, request: RolloutRequest, release: int) -> int:
        for view in self.rollouts.list():  # an earlier attempt may have ended just after it began one
            if (view.spec.release.task, view.spec.release.release) == (spec.task, release):
                return view.id
        settings = Settings(waves=request.waves)
        return self.rollouts.create(spec.task, release, _target(request), settings, unattended=True)


def _trained(result: TrainingResult) -> dict[str, Any]:
    return {"rows": result.rows, "best_epoch": result.best_epoch, "metrics": result.metrics}


def _target(request: RolloutRequest) -> Target:
    return Target(request.vehicles, request.tags, everyone=not (request.vehicles or request.tags))


def _nothing_new(named: dict[str, str], snapshot: dict[str, Any]) -> Verdict:
    text = f"snapshot {snapshot['sha256'][:12]} was trained on from {named['incumbent']} before"
    return Verdict(gates=(GateResult(gate="news", passed=False, detail=text),), deciding="")


def _typed(figures: dict[str, Any]) -> dict[str, VariantFigures]:
    return from_builtins(figures, dict[str, VariantFigures])


def _result(
    spec: RetrainSpec, named: dict[str, str], verdict: Verdict, before: dict[str, Any], after: dict[str, Any]
) -> dict[str, Any]:
    metric, key = get_task(spec.task).metric, verdict.deciding

    def side(version: str, figures: dict[str, Any]) -> dict[str, Any]:
        by_variant = {variant: found["metrics"][metric] for variant, found in figures.items()}
        return {"version": version, "value": by_variant.get(key), "by_variant": by_variant}

    decided = after.get(key, {})
    return {
        "task": spec.task,
        "metric": metric,
        "accepted": verdict.accepted,
        "refusals": verdict.refusals,
        "gates": [msgspec.to_builtins(gate) for gate in verdict.gates],
        "incumbent": side(named["incumbent"], before),
        "candidate": side(named["candidate"], after),
        "variant": key,
        "rows": decided.get("rows"),
        "evaluated_sha256": decided.get("file_sha256"),
    }


def _smaller(spec: RetrainSpec) -> str:
    """The options that make a candidate smaller."""
    asked = "" if spec.compress is None else f" --compress {spec.compress.method} --share {spec.compress.share:g}"
    return asked + ("" if spec.qat_above is None else f" --qat-above {spec.qat_above:g}")
