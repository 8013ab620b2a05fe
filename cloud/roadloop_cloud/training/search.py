"""The job `search`: trials of other recipes, validated fold by fold. One trial and several folds: cross-validation.

Every fold of every trial is a step: what a worker that dies had finished is not trained again, and what it was at goes
on after its last epoch. No torch here.
"""

import shutil
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec

from roadloop_cloud.jobs import Work
from roadloop_cloud.training.eta import in_words as progress_in_words
from roadloop_cloud.training.run import OnProgress
from roadloop_cloud.training.space import as_changes, drawn, in_words, parse_space
from roadloop_cloud.training.spec import (
    DataSource,
    ExecutorName,
    Fold,
    TrainingProgress,
    TrainingResult,
    TrainingSpec,
)
from roadloop_models.bundle.manifest import Name
from roadloop_models.typed import from_builtins

KIND = "search"
Step = Callable[[str, Callable[[], Any]], Any]
"""The result (JSON) of a step by its name: of an earlier attempt, or computed now."""
Show = Callable[[str, float | None], None]


class SearchSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What is tried. Paths are absolute."""

    task: Name
    data: DataSource
    space: tuple[str, ...] = ()
    """`peak_rate=0.001..0.1`, for example; see space.py."""
    trials: Annotated[int, msgspec.Meta(ge=1, le=200)] = 1
    """The first is the task's own recipe."""
    folds: Annotated[int, msgspec.Meta(ge=2, le=20)] | None = None
    """None: only the rows that the task itself holds out."""
    parent: str | None = None
    """Directory of the bundle to start from."""
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    epochs: Annotated[int, msgspec.Meta(ge=1)] | None = None
    threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    executor: ExecutorName = "local"
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What one trial reached."""

    changes: dict[str, float]
    scores: tuple[float, ...]
    """Validation scores, one a fold; lower is better."""
    best_epochs: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Over the folds."""
        return statistics.fmean(self.scores)

    @property
    def deviation(self) -> float:
        """Standard deviation between folds; 0 for a single one."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The trials of a search in their order."""

    score_name: str
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The lowest mean; of equal ones the first."""
        return min(self.trials, key=lambda trial: trial.mean)


class Train(Protocol):
    """Trains as the spec says in a folder of its own; training/run.py is the real one."""

    def __call__(self, spec: TrainingSpec, work_dir: Path, on_progress: OnProgress | None = None) -> TrainingResult:
        """See run_training."""
        ...


@dataclass(frozen=True)
class Searches:
    """Runs searches; `run` is the job's handler."""

    work_folder: Path
    train: Train

    def run(self, work: Work) -> dict[str, Any]:
        """Try everything, or go on with what an earlier attempt left. Raises what training raises."""
        spec = from_builtins(work.job.spec, SearchSpec)
        folder = self.work_folder / f"{KIND}-{work.job.id}"
        found = search(spec, self.train, folder, work.step, work.progress)
        shutil.rmtree(folder, ignore_errors=True)
        return summary(found)


def search(spec: SearchSpec, train: Train, folder: Path, step: Step, show: Show) -> Found:
    """Every trial, fold by fold. Raises ConfigError for the space, and what training raises."""
    space = parse_space(spec.space)
    trials, score_name = [], ""
    folds = [None] if spec.folds is None else [Fold(index, spec.folds) for index in range(spec.folds)]
    total = spec.trials * len(folds)
    for number in range(spec.trials):
        changes = drawn(space, spec.seed, number)
        results = []
        for index, fold in enumerate(folds):
            name = f"trial {number + 1}" + ("" if fold is None else f" fold {index + 1}")
            place = folder / name.replace(" ", "-")
            heard = _Heard(show, f"{name} ({in_words(changes)})", len(folds) * number + index, total)
            asked = _training(spec, changes, fold)
            results.append(step(name, lambda: _scored(train(asked, place, heard))))  # noqa: B023 - called at once
            shutil.rmtree(place, ignore_errors=True)
        score_name = results[0]["name"]
        trials.append(
            Trial(
                changes=changes,
                scores=tuple(result["score"] for result in results),
                best_epochs=tuple(result["best_epoch"] for result in results),
            )
        )
    return Found(score_name=score_name, trials=tuple(trials))


def summary(found: Found) -> dict[str, Any]:
    """JSON for the job's result."""
    rows = [{**msgspec.to_builtins(trial), "mean": trial.mean, "deviation": trial.deviation} for trial in found.trials]
    return {"score": found.score_name, "trials": rows, "best": found.trials.index(found.best)}


@dataclass(frozen=True)
class _Heard:
    """Hands on what one training says, as a part of the whole search."""

    show: Show
    name: str
    before: int
    total: int

    def __call__(self, now: TrainingProgress) -> None:
        within = now.done / now.total if now.stage == "train" and now.total else 0.0
        self.show(f"{self.name}: {progress_in_words(now)}", (self.before + within) / self.total)


def _training(spec: SearchSpec, changes: dict[str, float], fold: Fold | None) -> TrainingSpec:
    recipe, epochs = as_changes(changes)
    return TrainingSpec(
        task=spec.task,
        version="trial",
        data=spec.data,
        parent=spec.parent,
        seed=spec.seed,
        epochs=epochs or spec.epochs,
        recipe=recipe,
        fold=fold,
        score_only=True,
        threads=spec.threads,
        executor=spec.executor,
        workers=spec.workers,
    )


def _scored(result: TrainingResult) -> dict[str, Any]:
    ((name, score),) = result.metrics.items()
    return {"name": name, "score": score, "best_epoch": result.best_epoch}
