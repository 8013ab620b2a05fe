"""SIGKILL for worker, trainer, quantizer and publisher at every step of a generation; a disk that is full there."""

import errno
import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from roadloop_cloud.jobs import FAILED, QUEUED, Held, Jobs
from roadloop_models.errors import FailedError, RoadloopError
from tests.fakes.chain import Chain
from tests.fakes.injection import failing_at, hooked
from tests.fakes.quick_trainer import STAGES

STEPS = [
    "begin", "snapshot", "train", "evaluate incumbent", "evaluate candidate", "gate", "register", "explain",
    "card", "publish", "delivery", "rollout",
]  # fmt: skip

ROUNDED = ("train quantization-aware", "evaluate candidate again", "gate again")


@contextmanager
def killed_when_recording(step: str, moment: str) -> Iterator[None]:
    """SIGKILL right before or right after the result of a step is written down."""
    record_step = Jobs.record_step

    def recording(jobs: Jobs, job: Held, name: str, result: Any) -> None:
        if (name, moment) == (step, "before"):
            os.kill(os.getpid(), signal.SIGKILL)
        record_step(jobs, job, name, result)
        if (name, moment) == (step, "after"):
            os.kill(os.getpid(), signal.SIGKILL)

    with mock.patch.object(Jobs, "record_step", recording):
        yield


@contextmanager
def killed_at_call(number: int) -> Iterator[None]:
    """SIGKILL before that call of `os`."""

    def hook(at: int, name: str, when: str, args: tuple[Any, ...]) -> None:
        if (at, when) == (number, "before"):
            os.kill(os.getpid(), signal.SIGKILL)

    with hooked(hook):
        yield


@pytest.mark.parametrize("rounded", [False, True])
def test_a_worker_killed_before_and_after_every_record_of_a_step_does_it_all_once(
    tmp_path: Path, rounded: bool
) -> None:
    chain, after_gate = Chain(tmp_path, rounded=rounded), STEPS.index("gate") + 1
    steps = [*STEPS[:after_gate], *(ROUNDED if rounded else ()), *STEPS[after_gate:]]
    for step in steps:
        for moment in ("before", "after"):
            assert chain.work_in_a_child(partial(killed_when_recording, step, moment)), f"{moment} {step}: not killed"
            chain.check()
            assert (step in chain.row.steps) == (moment == "after")
    chain.work()
    chain.check_end()
    assert list(chain.row.steps) == steps


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_worker_killed_again_and_again_at_any_call_does_it_all_once(tmp_path: Path, seed: int) -> None:
    """Lives end at calls drawn at random, until one gets through; a person tries again what was given up."""
    chain, chance, kills = Chain(tmp_path), random.Random(seed), 0
    while chain.row.state != "done":
        if chain.row.state == FAILED:
            chain.jobs.retry(chain.job)
        number = chance.randrange(1, 40)
        if kills < 40:
            kills += chain.work_in_a_child(partial(killed_at_call, number))
        else:
            chain.work()
        chain.check()
    assert kills
    chain.check_end()


@pytest.mark.parametrize("stage", STAGES)
def test_a_trainer_killed_in_any_stage_is_started_again(tmp_path: Path, stage: str) -> None:
    chain = Chain(tmp_path)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "die-at").write_text(stage)
    with pytest.raises(FailedError, match="without a result"):
        chain.work()
    assert (chain.row.state, list(chain.row.steps)) == (QUEUED, ["begin", "snapshot"])
    chain.work()
    assert chain.trainings == 1
    assert (chain.row.state, (chain.row.result or {})["release"]) == ("done", 2)


@pytest.mark.slow
@pytest.mark.parametrize("stride", [7])
def test_a_disk_that_is_full_leaves_nothing_half_and_the_job_goes_on_when_there_is_room(
    tmp_path: Path, stride: int
) -> None:
    for points, number in enumerate(range(1, 1000, stride)):
        folder = tmp_path / str(number)
        folder.mkdir()
        chain = Chain(folder)
        with failing_at(number, errno.ENOSPC, once=False) as failed:
            try:
                chain.work()
            except (OSError, RoadloopError):
                assert failed, "nothing failed, and yet it did not end well"
        if not failed:
            assert points > 5
            return
        chain.check()
        assert chain.row.state == QUEUED, "a full disk is not the job's fault"
        chain.life += 1
        chain.work()
        chain.check_end()
