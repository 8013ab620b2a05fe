"""The loop itself, measured: generations that nobody asked for, from data in time order.

The first model is trained on the first twelve hours of losloop's week; the fleet replays the other training rows while
the loop learns twice in a day of data, and by the drift that it sees.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from roadloop_cloud.loop.decide import Generation
from roadloop_cloud.loop.policy import Budget, LoopPolicy, Triggers
from roadloop_cloud.retrain.pipeline import RetrainSpec, RolloutRequest
from roadloop_cloud.store.database import now_utc
from roadloop_cloud.store.fleet_tables import Job
from roadloop_cloud.training.reference import with_reference
from roadloop_cloud.training.run import run_training
from roadloop_cloud.training.spec import DataSource, TrainingSpec
from roadloop_models.bundle import Bundle
from roadloop_models.tasks.speed_data import SpeedRows, load_adjacency, load_training_speeds, write_speeds
from tests.bench.figures import Figure, Result, Skipped
from tests.bench.learning.context import Context
from tests.bench.learning.loop_world import DAY_S, STEPS_PER_HOUR, TASK, World, wait_for

FIRST_STEPS = 12 * STEPS_PER_HOUR
GENERATIONS = 3
MOST_JOBS = 6
_JOB_S, _ROLLOUT_S = 1200.0, 300.0
_figure = partial(Figure, command="scripts/bench learning")


@dataclass(frozen=True)
class Turn:
    """One generation: its job, and what it cost."""

    job: Job
    generation: Generation
    received_bytes: int
    """Telemetry that came since the turn before."""
    wall_s: float
    """From its beginning until all vehicles ran it, or until it was refused."""


def figures(context: Context) -> Iterator[Result]:
    """Ten minutes or so, where there is a core for it."""
    if context.data is None:
        yield Skipped("the loop itself", "ROADLOOP_DATA names no data")
        return
    with tempfile.TemporaryDirectory(prefix="roadloop-loop-") as folder:
        begin_s = time.monotonic()
        rows = load_training_speeds(context.data, "all")
        first, rest = rows.span(0, FIRST_STEPS), rows.span(FIRST_STEPS, len(rows))
        world = World(Path(folder), rest, _first_model(Path(folder), first, context.data))
        with world.service():
            yield from _of_generations(_generations(world, context.data))
        world.app.database.close()
        yield _figure("loop_bench_s", time.monotonic() - begin_s, "s")


def _first_model(folder: Path, rows: SpeedRows, data: Path) -> Path:
    """A bundle that was trained on these rows alone; with a reference."""
    write_speeds(folder / "first", rows, load_adjacency(data, rows.speeds_mph.shape[1]))
    source = DataSource(str(folder / "first"), "snapshot")
    # "published" says that the rows are of the published training split: the gate asks what a model has seen.
    spec = TrainingSpec(task=TASK, version="first-1", data=source, data_name="published")
    made = run_training(spec, folder / "training")
    return with_reference(Bundle.open(Path(made.bundle)), source, folder / "starter").directory


def _generations(world: World, data: Path) -> list[Turn]:
    """Let the fleet drive and the loop learn until enough generations are published, or too many were tried."""
    policy = LoopPolicy(
        retrain=RetrainSpec(task=TASK, data=str(data), publish=True, rollout=RolloutRequest(waves=("1", "100%"))),
        triggers=Triggers(drift=True, every_s=DAY_S / 2),
        cool_down_s=0.0,
        budget=Budget(generations=MOST_JOBS),
    )
    turns: list[Turn] = []
    received = 0
    with world.driving():
        world.app.loops.enable(policy)
        while len(turns) < MOST_JOBS and sum(turn.generation.published for turn in turns) < GENERATIONS:
            if not wait_for("a generation ends", lambda: _ended(world, len(turns)), DAY_S + _JOB_S):
                break
            (status,) = world.app.loops.status()
            generation = status.generations[len(turns)]
            assert status.job is not None
            job = world.app.jobs.get(_jobs(world)[len(turns)])
            assert job.state == "done", f"job {job.id} is {job.state}: {job.error}"
            if generation.published:
                wait_for("all run it", lambda: not _rolling(world), _ROLLOUT_S)
                states = {view.state for view in world.app.rollouts.list()}
                assert states == {"succeeded"}, f"rollouts are {states}"
            now_received = world.received_bytes()
            turns.append(Turn(job, generation, now_received - received, (now_utc() - generation.began).total_seconds()))
            received = now_received
    world.app.loops.disable(TASK)
    return turns


def _jobs(world: World) -> list[int]:
    """Of the generations, the oldest first."""
    return [one.job_id for one in reversed(world.app.loops.decisions(TASK, 1000)) if one.job_id is not None]


def _ended(world: World, before: int) -> bool:
    (status,) = world.app.loops.status()
    return len(status.generations) > before and status.generations[before].ended is not None


def _rolling(world: World) -> bool:
    return any(view.state == "running" for view in world.app.rollouts.list())


def _of_generations(turns: Sequence[Turn]) -> Iterator[Result]:
    published = [turn for turn in turns if turn.generation.published]
    yield _figure("loop_generations", len(turns), "generations")
    yield _figure("loop_published", len(published), "generations", bar=GENERATIONS, direction="at least")
    for number, turn in enumerate(turns, start=1):
        name, result = f"loop_generation_{number}", turn.job.result or {}
        for side in ("incumbent", "candidate"):
            if result.get(side, {}).get("value") is not None:
                yield _figure(f"{name}_{side}_{result['metric']}", result[side]["value"], "mph")
        yield _figure(f"{name}_published", turn.generation.published, "")
        yield _figure(f"{name}_wall_s", turn.wall_s, "s")
        yield _figure(f"{name}_cpu_s", turn.generation.cpu_s, "s")
        yield _figure(f"{name}_received_kb", turn.received_bytes / 1000, "kB")
        yield _figure(f"{name}_delivered_kb", turn.generation.delivered_bytes / 1000, "kB")
    worse = [gate for turn in published for gate in (turn.job.result or {})["gates"] if not gate["passed"]]
    yield _figure("loop_published_gates_not_passed", len(worse), "gates", bar=0)
