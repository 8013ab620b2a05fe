"""One suite over all executors: the same rows, recipe and seed give the same weights, whatever dies on the way."""

import fcntl
import importlib.util
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from roadloop_cloud.training.run import LOG_FILE, run_training
from roadloop_cloud.training.spec import DataSource, ExecutorName, TrainingProgress, TrainingResult, TrainingSpec
from roadloop_models.errors import ConfigError, DataError, FailedError, RuntimeMissingError
from roadloop_models.tasks import get_task
from tests.fakes.processes import LOOPBACK, descendants, has_in_environment, holders, listening, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
NO_RAY = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'roadloop[ray]'"
)
ALL = pytest.mark.parametrize("executor", ["local", "torchrun", pytest.param("ray", marks=NO_RAY)])
SEVERAL = pytest.mark.parametrize("executor", ["torchrun", pytest.param("ray", marks=NO_RAY)])
Weights = dict[str, npt.NDArray[np.generic]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made")
    get_task("traffic-speed").write_made_data(directory, seed=11)
    return directory


@pytest.fixture(scope="module")
def alone(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """What one local worker makes, uninterrupted."""
    folder = tmp_path_factory.mktemp("alone")
    run_training(_spec(made, "local"), folder)
    return _weights(folder)


def _spec(made: Path, executor: ExecutorName, workers: int = 1, epochs: int = 4) -> TrainingSpec:
    return TrainingSpec(
        task="traffic-speed",
        version="v-1",
        data=DataSource(str(made), "starter"),
        epochs=epochs,
        seed=5,
        score_only=True,
        executor=executor,
        workers=workers,
        checkpoint_every_s=0.0,
    )


def _weights(folder: Path) -> Weights:
    with np.load(folder / "checkpoints" / "train.npz", allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files if name.startswith(("average/", "best/"))}


def _same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


class _Killer:
    """Kills the first worker (it holds the lock) as soon as an epoch is done."""

    def __init__(self, folder: Path, epoch: int) -> None:
        self._lock, self._epoch = folder / "lock", epoch
        self.killed = False
        self.resumed_at: list[int] = []

    def __call__(self, step: TrainingProgress) -> None:
        if step.resumed:
            self.resumed_at.append(step.done)
        elif step.stage == "train" and step.done == self._epoch and not self.killed:
            self.killed = True
            (worker,) = holders(self._lock)
            os.kill(worker, signal.SIGKILL)


def _to_the_end(spec: TrainingSpec, folder: Path, watch: _Killer) -> TrainingResult:
    """As a job does it: what a death ended is begun again."""
    try:
        return run_training(spec, folder, watch)
    except FailedError:
        return run_training(spec, folder, watch)


@ALL
def test_every_executor_makes_the_same_weights(made: Path, alone: Weights, tmp_path: Path, executor: str) -> None:
    seen: list[TrainingProgress] = []
    result = run_training(_spec(made, executor), tmp_path, seen.append)  # type: ignore[arg-type]
    assert _same(_weights(tmp_path), alone)
    assert result.metrics.keys() == {"validation_rmse_mph_60min"}
    assert [step.done for step in seen if step.stage == "train"] == [0, 1, 2, 3, 4]
    assert all(step.eta_s is not None for step in seen if step.stage == "train" and step.done)


@ALL
def test_a_worker_that_is_killed_costs_at_most_an_epoch(made: Path, tmp_path: Path, executor: str) -> None:
    spec = _spec(made, executor, workers=1 if executor == "local" else 2)  # type: ignore[arg-type]
    run_training(spec, tmp_path / "whole")
    killer = _Killer(tmp_path / "killed", epoch=2)
    (tmp_path / "killed").mkdir()
    _to_the_end(spec, tmp_path / "killed", killer)
    assert killer.killed
    assert killer.resumed_at
    assert killer.resumed_at[0] >= 2
    assert _same(_weights(tmp_path / "killed"), _weights(tmp_path / "whole"))


@SEVERAL
def test_two_workers_learn_from_other_batches_than_one(
    made: Path, alone: Weights, tmp_path: Path, executor: str
) -> None:
    run_training(_spec(made, executor, workers=2), tmp_path)  # type: ignore[arg-type]
    assert not _same(_weights(tmp_path), alone)


@ALL
def test_an_error_comes_back_as_it_was_raised(tmp_path: Path, executor: str) -> None:
    spec = msgspec.structs.replace(_spec(tmp_path, executor), data=DataSource("nowhere"))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"los_speed\.csv"):
        run_training(spec, tmp_path / "work")
    log = (tmp_path / "work" / LOG_FILE).read_text(errors="replace")
    assert "exitcode" not in log, "the launcher takes it for a death and starts anew"


class _StopError(Exception):
    """Stands for Ctrl-C or a job that is taken away."""


@ALL
def test_stopping_ends_all_workers_and_nothing_listens_without_authentication(
    made: Path, tmp_path: Path, executor: str
) -> None:
    inside, outside = set[int](), set[int]()
    asks_for_a_token: list[bool] = []

    def stop(step: TrainingProgress) -> None:
        if step.stage == "train" and step.done == 1:
            for pid in descendants():
                addresses = listening([pid])
                if addresses & LOOPBACK:
                    inside.add(pid)
                if addresses - LOOPBACK:
                    outside.add(pid)
                    asks_for_a_token.append(has_in_environment(pid, "RAY_AUTH_MODE=token"))
            raise _StopError

    with pytest.raises(_StopError):
        run_training(_spec(made, executor, 1 if executor == "local" else 2, epochs=500), tmp_path, stop)  # type: ignore[arg-type]
    until(lambda: not holders(tmp_path / "lock"))
    assert len(inside) == (0 if executor == "local" else 2), "workers that train together, and nothing else"
    assert not outside or executor == "ray"
    assert all(asks_for_a_token)


@ALL
def test_workers_end_when_their_caller_is_killed(made: Path, tmp_path: Path, executor: str) -> None:
    spec = _spec(made, executor, epochs=1000)  # type: ignore[arg-type]
    (tmp_path / "asked.json").write_bytes(msgspec.json.encode(spec))
    code = (
        "import msgspec, pathlib, sys\n"
        "from roadloop_cloud.training.run import run_training\n"
        "from roadloop_cloud.training.spec import TrainingSpec\n"
        "spec = msgspec.json.decode(pathlib.Path(sys.argv[1]).read_bytes(), type=TrainingSpec)\n"
        "run_training(spec, pathlib.Path(sys.argv[2]))\n"
    )
    caller = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "asked.json"), str(tmp_path / "work")])
    until((tmp_path / "work" / "checkpoints" / "train.npz").exists)
    caller.kill()
    caller.wait()
    until(lambda: not holders(tmp_path / "work" / "lock"))


def test_a_second_start_of_a_run_waits_for_the_first(made: Path, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    inode = f":{lock.stat().st_ino} "
    results: list[TrainingResult] = []
    seen: list[TrainingProgress] = []
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        run = threading.Thread(
            target=lambda: results.append(run_training(_spec(made, "local", epochs=1), tmp_path, seen.append))
        )
        run.start()
        until(lambda: any("->" in line and inode in line for line in _locks()))
        assert not seen
    run.join(120)
    assert results


def _locks() -> list[str]:
    return Path("/proc/locks").read_text().splitlines()


def test_what_was_finished_is_not_trained_again(made: Path, tmp_path: Path) -> None:
    spec = _spec(made, "local", epochs=1)
    first = run_training(spec, tmp_path)
    seen: list[TrainingProgress] = []
    assert run_training(spec, tmp_path, seen.append) == first
    assert not seen
    run_training(msgspec.structs.replace(spec, seed=6), tmp_path, seen.append)
    assert seen


def test_one_worker_is_all_that_local_has(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose 'torchrun' or 'ray'"):
        run_training(_spec(made, "local", workers=2), tmp_path)


def test_ray_that_is_not_installed_is_said(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeMissingError, match=r"pip install 'roadloop\[ray\]'"):
        run_training(_spec(made, "ray"), tmp_path)
