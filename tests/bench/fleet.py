"""Figures of the fleet service: what it costs to decide for many vehicles."""

import time
from functools import partial
from pathlib import Path

from roadloop_cloud.rollout.plan import Member, Rollout, RolloutSpec, plan
from roadloop_models.contract.messages import ReleaseRef, Reported, ReportedSlot
from tests.bench.figures import Figure, Result

VEHICLES = 100_000
_figure = partial(Figure, command="scripts/bench fleet")


def figures(_data: Path | None) -> list[Result]:
    """One step of a rollout over a large fleet, half of which has the release."""
    old = ReleaseRef(task="traffic-sign", release=1, version="old", manifest_sha256="0" * 64)
    new = ReleaseRef(task="traffic-sign", release=2, version="new", manifest_sha256="1" * 64)
    spec = RolloutSpec(
        release=new,
        wave_sizes=(VEHICLES // 2, VEHICLES // 2),
        success_threshold=0.95,
        error_threshold=0.1,
        min_executed=10,
        soak_s=0.0,
        timeout_s=3600.0,
    )
    members = tuple(
        Member(f"v-{index}", index * 2 // VEHICLES, "offered" if index * 2 < VEHICLES else "waiting", 0.0)
        for index in range(VEHICLES)
    )
    reports = {member.vehicle: _report(new if member.wave == 0 else old, member.vehicle) for member in members}
    begin_s = time.perf_counter()
    decided = plan(Rollout(spec, members), reports, now_s=1.0)
    seconds = time.perf_counter() - begin_s
    assert len(decided.offer) == VEHICLES // 2
    return [_figure("plan_100k_s", seconds, "s", bar=1.0)]


def _report(running: ReleaseRef, _vehicle: str) -> Reported:
    slot = ReportedSlot(task=running.task, running=running, runtime="onnx", precision="int8", state="idle")
    return Reported(boot=1, agent_version="0.1.0", hardware="x86-64", desired_version=1, slots={"sign": slot})
