"""What a fleet of digital twins costs the cloud, and whether all of them take a release while their telemetry flows."""

import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from roadloop_cloud.rollout.service import Settings, Target
from tests.bench.figures import Figure, Result
from tests.fakes.live_cloud import wait_until
from tests.fakes.twin_cloud import TASK, TwinCloud, Twins, memory_folder, missing_samples, produced_samples

FEW, MANY = 500, 5000
STARTED_S = 60.0
"""Within which the twins are switched on."""
SCENARIO = f"""
[rates]
tick_s = 5.0
health_every_s = 10.0
batch_age_s = 30.0
start_within_s = {STARTED_S}
"""
SETTINGS = Settings(waves=("1%", "25%", "100%"), soak_s=2.0, timeout_s=1200.0, health_window_s=25.0, min_executed=5)
_PATIENCE_S = 1500.0
_figure = partial(Figure, command="scripts/bench fleet")


@dataclass(frozen=True)
class Run:
    """One fleet. `cpu_s`: of broker, ingest and fleet process, from their start on."""

    vehicles: int
    completed: int
    samples: int
    lost: int
    rollout_s: float
    seconds: float
    cpu_s: dict[str, float]

    @property
    def cpu_per_vehicle_ms(self) -> float:
        """Processor time of the cloud for one vehicle."""
        return 1000 * sum(self.cpu_s.values()) / self.vehicles


def figures() -> Iterable[Result]:
    """The large fleet, then the small one for as long and at the same rates."""
    many = run(MANY)
    few = run(FEW, many.seconds)
    yield _figure("fleet_500_rollout_s", few.rollout_s, "s")
    yield _figure("fleet_500_cloud_cpu_per_vehicle_ms", few.cpu_per_vehicle_ms, "ms")
    yield _figure("fleet_seconds", many.seconds, "s")
    yield _figure("fleet_5000_completed", many.completed, "vehicles", bar=MANY, direction="at least")
    yield _figure("fleet_lost_records", few.lost + many.lost, "samples", bar=0)
    yield _figure("fleet_5000_samples", many.samples, "samples")
    yield _figure("fleet_5000_rollout_s", many.rollout_s, "s")
    yield _figure("fleet_5000_cloud_cpu_per_vehicle_ms", many.cpu_per_vehicle_ms, "ms")
    for name, cpu_s in many.cpu_s.items():
        yield _figure(f"fleet_5000_{name}_cpu_s", cpu_s, "s")
    ratio = many.cpu_per_vehicle_ms / few.cpu_per_vehicle_ms
    yield _figure("cloud_cpu_per_vehicle_ratio", ratio, "times", bar=1.2)


def run(vehicles: int, seconds: float = 0.0) -> Run:
    """Start so many twins on a new workspace, take a release to all of them, and compare the ledger with theirs.

    Processor time is taken when that is done, but not before so many `seconds` have passed.
    """
    with (
        tempfile.TemporaryDirectory(prefix="roadloop-fleet-") as folder,
        tempfile.TemporaryDirectory(prefix="roadloop-twins-", dir=memory_folder(Path(folder))) as disks,
    ):
        cloud = TwinCloud(Path(folder), Path(disks))
        cloud.add_twins("twin", vehicles, "board-a")
        release = cloud.release("tiny-2", seed=2)
        with cloud.service(), Twins(cloud, SCENARIO, processes=2, drain_s=120.0) as twins:
            begin_s = time.monotonic()
            wait_until("all report", lambda: cloud.running()["tiny-1"] == vehicles, _PATIENCE_S, look_s=2.0)
            _sleep_until(begin_s + STARTED_S)
            offered_s = time.monotonic()
            rollout = cloud.app.rollouts.create(TASK, release, Target(everyone=True), SETTINGS)
            cloud.ended(rollout, _PATIENCE_S, look_s=2.0)
            rollout_s = time.monotonic() - offered_s
            _sleep_until(begin_s + seconds)
            seconds, cpu_s = time.monotonic() - begin_s, cloud.cpu_s()
            account = twins.finish()
            completed = cloud.running()["tiny-2"]
        lost = missing_samples(cloud, account) + account["status"]["lost"]
        return Run(vehicles, completed, produced_samples(account), lost, rollout_s, seconds, cpu_s)


def _sleep_until(moment_s: float) -> None:
    time.sleep(max(0.0, moment_s - time.monotonic()))
