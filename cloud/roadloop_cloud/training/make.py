"""`models train`: the one command that factory and starter bundles, and any other, are made with."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from roadloop_cloud.training.journal import Journal
from roadloop_cloud.training.run import BUNDLE_FOLDER, OnProgress, run_training
from roadloop_cloud.training.search import SearchSpec, search
from roadloop_cloud.training.space import EPOCHS, as_changes
from roadloop_cloud.training.spec import DataSource, ExecutorName, TrainingResult, TrainingSpec
from roadloop_models.errors import BadInputError, BundleError
from roadloop_models.tasks import Part, get_task


def train_bundle(
    task: str,
    data_dir: Path,
    version: str,
    output: Path,
    *,
    part: Part = "all",
    seed: int = 0,
    epochs: int | None = None,
    changes: Mapping[str, float] | None = None,
    folds: int | None = None,
    form: str | None = None,
    with_fp32: bool = False,
    made: bool = False,
    threads: int = 1,
    executor: ExecutorName = "local",
    workers: int = 1,
    on_progress: OnProgress | None = None,
) -> TrainingResult:
    """Train `task` from nothing on one part of the training rows below `data_dir` and write the bundle `output`.

    `changes` are of the task's recipe (see space.py). With `folds` the recipe is cross-validated first. The bundle is
    evaluated on the test rows below `data_dir`; manifest and model card carry all figures. Killed and asked for again,
    it goes on after the last epoch. Raises what `run_training` raises, ConfigError for a change, and BundleError where
    `output` exists.
    """
    get_task(task)
    if output.exists():
        raise BundleError(f"{output}: exists already; a bundle is never changed, choose a new version or directory")
    changes = dict(changes or {})
    recipe, changed_epochs = as_changes(changes)
    spec = TrainingSpec(
        task=task,
        version=version,
        data=DataSource(str(data_dir.resolve()), part),
        seed=seed,
        epochs=changed_epochs or epochs,
        recipe=recipe,
        form=form,
        with_fp32=with_fp32,
        test_data=str(data_dir.resolve()),
        data_name="made" if made else "published",
        threads=threads,
        executor=executor,
        workers=workers,
    )
    spec = msgspec.structs.replace(spec, command=_command(spec, changes, folds))
    work_dir = output.parent / f".train-{output.name}"
    work_dir.mkdir(parents=True, exist_ok=True)
    try:
        if folds is not None:
            scores = _cross_validated(spec, folds, work_dir / "folds", on_progress)
            spec = msgspec.structs.replace(spec, fold_scores=scores)
        result = run_training(spec, work_dir, on_progress)
        (work_dir / BUNDLE_FOLDER).rename(output)
    except BadInputError:  # the same command would fail again, so nothing will be gone on with
        shutil.rmtree(work_dir)
        raise
    shutil.rmtree(work_dir)
    return msgspec.structs.replace(result, bundle=str(output))


def _cross_validated(whole: TrainingSpec, folds: int, folder: Path, told: OnProgress | None) -> tuple[float, ...]:
    """The validation score of every fold."""
    asked = SearchSpec(task=whole.task, data=whole.data, folds=folds)

    def train(spec: TrainingSpec, work_dir: Path, on_progress: OnProgress | None = None) -> TrainingResult:
        fold = msgspec.structs.replace(whole, fold=spec.fold, score_only=True, test_data=None, with_fp32=False)
        return run_training(fold, work_dir, told)  # every epoch, and not only how much of the search is done

    found = search(asked, train, folder, Journal(folder / "steps.json", [whole, folds]).step, lambda text, done: None)
    return found.trials[0].scores


def _command(spec: TrainingSpec, changes: Mapping[str, float], folds: int | None) -> str:
    options = f"--part {spec.data.part} --seed {spec.seed}"
    options += "" if spec.epochs is None or EPOCHS in changes else f" --epochs {spec.epochs}"
    options += "".join(f" --set {name}={value:g}" for name, value in changes.items())
    options += "" if folds is None else f" --folds {folds}"
    options += "" if spec.form is None else f" --form {spec.form}"
    options += " --with-fp32" if spec.with_fp32 else ""
    options += "" if spec.workers == 1 else f" --executor {spec.executor} --workers {spec.workers}"
    return f"roadloop models train --task {spec.task} --data DIR {options} --version {spec.version} --output BUNDLE"
