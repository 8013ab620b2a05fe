"""Searches: what is tried, and what a kill costs. Training is a fake whose score is known."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_cloud.jobs import Jobs, run_job
from roadloop_cloud.store.database import Database
from roadloop_cloud.training.journal import Journal
from roadloop_cloud.training.run import OnProgress
from roadloop_cloud.training.search import KIND, Found, Searches, SearchSpec, search, summary
from roadloop_cloud.training.space import as_changes, drawn, parse_changes, parse_space
from roadloop_cloud.training.spec import DataSource, RecipeChanges, TrainingProgress, TrainingResult, TrainingSpec
from roadloop_models.errors import ConfigError

SPACE = ("peak_rate=0.001..0.1", "epochs=2,4")


def test_a_space_is_read_from_what_people_write() -> None:
    space = parse_space(["peak_rate=1e-3..0.1", "weight_decay=0,0.01"])
    assert (space["peak_rate"].values, space["peak_rate"].continuous) == ((0.001, 0.1), True)
    assert (space["weight_decay"].values, space["weight_decay"].continuous) == ((0.0, 0.01), False)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("peek_rate=1,2", "peak_rate"),
        ("peak_rate", "needs values"),
        ("peak_rate=fast", "not numbers"),
        ("peak_rate=0.1..0.01", "a range goes"),
        ("peak_rate=0..1", "a range goes"),
        ("peak_rate=-1", "peak_rate"),
        ("ema_decay=0.5,1.5", "ema_decay"),
        ("epochs=2.5", "whole number"),
    ],
)
def test_what_cannot_be_tried_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_space([text])


@given(st.integers(0, 1 << 30), st.integers(1, 200))
def test_a_trial_is_drawn_from_the_seed_alone(seed: int, trial: int) -> None:
    space = parse_space(SPACE)
    changes = drawn(space, seed, trial)
    assert changes == drawn(space, seed, trial)
    assert 0.001 <= changes["peak_rate"] <= 0.1
    assert changes["epochs"] in (2, 4)
    as_changes(changes)


def test_the_first_trial_is_the_recipe_itself_and_the_others_differ() -> None:
    space = parse_space(SPACE)
    assert drawn(space, 7, 0) == {}
    assert len({json.dumps(drawn(space, 7, trial)) for trial in range(1, 20)}) == 19


def test_changes_are_single_values() -> None:
    assert as_changes(parse_changes(["peak_rate=0.02", "epochs=3"])) == (RecipeChanges(peak_rate=0.02), 3)
    with pytest.raises(ConfigError, match="one value"):
        parse_changes(["peak_rate=0.02,0.03"])


class _KilledError(Exception):
    """Stands for SIGKILL."""


@dataclass
class _Training:
    """Scores by the learning rate; dies at one of its calls."""

    die_at: int | None = None
    dies_as: type[BaseException] = _KilledError
    asked: list[TrainingSpec] = field(default_factory=list)

    def __call__(self, spec: TrainingSpec, work_dir: Path, on_progress: OnProgress | None = None) -> TrainingResult:
        work_dir.mkdir(parents=True)
        self.asked.append(spec)
        if len(self.asked) == self.die_at:
            raise self.dies_as
        assert on_progress is not None
        on_progress(TrainingProgress(stage="train", done=1, total=2, message="loss 1", eta_s=3.0))
        rate, fold = spec.recipe.peak_rate or 0.01, 0 if spec.fold is None else spec.fold.index
        return TrainingResult(
            bundle="", metrics={"error": abs(rate - 0.03) + fold / 100}, best_epoch=fold + 1, rows=9, seconds={}
        )


SPEC = SearchSpec(task="traffic-speed", data=DataSource("data"), space=SPACE, trials=4, folds=3, seed=2)


def _search(folder: Path, training: _Training, told: list[Any] | None = None) -> Found:
    def show(text: str, done: float | None) -> None:
        if told is not None:
            told.append((text, done))

    folder.mkdir(exist_ok=True)
    return search(SPEC, training, folder, Journal(folder / "steps.json", "this").step, show)


def test_every_trial_is_validated_on_every_fold(tmp_path: Path) -> None:
    training = _Training()
    told: list[Any] = []
    found = _search(tmp_path / "work", training, told)
    assert [(spec.fold.index, spec.fold.count) for spec in training.asked if spec.fold] == [(0, 3), (1, 3), (2, 3)] * 4
    assert all(spec.score_only and spec.test_data is None for spec in training.asked)
    assert found.best.mean == min(trial.mean for trial in found.trials)
    assert found.trials[0].deviation == pytest.approx(0.01)
    result = summary(found)
    assert result["trials"][result["best"]]["mean"] == found.best.mean
    assert json.loads(json.dumps(result))["trials"][1]["scores"] == list(found.trials[1].scores)
    done = [share for _, share in told]
    assert done == sorted(done)
    assert told[0][0] == "trial 1 fold 1 (the task's recipe): train 1/2: loss 1; 3 s left"


@pytest.mark.parametrize("die_at", [1, 2, 6, 12])
def test_a_kill_costs_the_fold_that_was_being_trained(tmp_path: Path, die_at: int) -> None:
    whole = _search(tmp_path / "whole", _Training())
    dying = _Training(die_at)
    with pytest.raises(_KilledError):
        _search(tmp_path / "killed", dying)
    (tmp_path / "killed").rename(tmp_path / "later")
    for folder in (tmp_path / "later").glob("trial-*"):
        folder.rmdir()  # the fake has no checkpoint to go on from
    again = _Training()
    assert _search(tmp_path / "later", again) == whole
    assert len(again.asked) == 12 - (die_at - 1)


class _DiedError(BaseException):
    """Stands for SIGKILL: no handler of errors runs."""


def test_the_next_worker_goes_on_with_a_search_job(tmp_path: Path) -> None:
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    database = Database(f"sqlite:///{tmp_path}/state.sqlite")
    database.create()
    jobs = Jobs(database, lambda: now[0])
    job = jobs.add(KIND, msgspec.to_builtins(SPEC))
    first, second = _Training(die_at=5, dies_as=_DiedError), _Training()
    held = jobs.claim("worker-1", [KIND])
    assert held is not None
    with pytest.raises(_DiedError):
        run_job(jobs, held, Searches(tmp_path / "work", first).run)
    assert jobs.claim("worker-2", [KIND]) is None, "the lease still holds"
    now[0] += timedelta(minutes=5)
    held = jobs.claim("worker-2", [KIND])
    assert held is not None
    for folder in (tmp_path / "work" / f"search-{job}").glob("trial-*"):
        folder.rmdir()  # the fake has no checkpoint to go on from
    result = run_job(jobs, held, Searches(tmp_path / "work", second).run)
    assert len(second.asked) == 12 - 4
    assert result == summary(_search(tmp_path / "whole", _Training()))
    assert not (tmp_path / "work" / f"search-{job}").exists()
    database.close()


def test_a_journal_of_other_work_is_not_gone_on_with(tmp_path: Path) -> None:
    Journal(tmp_path / "j.json", {"seed": 1}).step("a", lambda: 1)
    assert Journal(tmp_path / "j.json", {"seed": 1}).step("a", lambda: 2) == 1
    Journal(tmp_path / "s.json", [SPEC, 3]).step("a", lambda: 1)
    assert Journal(tmp_path / "s.json", [SPEC, 3]).step("a", lambda: 2) == 1, "a spec has tuples, JSON has lists"
    assert Journal(tmp_path / "j.json", {"seed": 2}).step("a", lambda: 3) == 3
