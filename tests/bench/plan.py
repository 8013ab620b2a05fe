"""What one step of a rollout over a large fleet costs."""

import time
from collections.abc import Iterable
from functools import partial

from roadloop_cloud.rollout.members import Heard, Member, MemberState
from roadloop_cloud.rollout.plan import plan
from roadloop_cloud.rollout.spec import RolloutSpec
from roadloop_cloud.rollout.state import Rollout
from roadloop_models.contract.messages import ErrorInfo, ReleaseRef, Reported, ReportedSlot
from tests.bench.figures import Figure, Result

VEHICLES = 100_000
COHORTS = 12
_figure = partial(Figure, command="scripts/bench fleet")


def figures() -> Iterable[Result]:
    """The step in which half of the fleet has finished, 2 in 100 of it badly, and the other half is offered it."""
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
        on_failure="cohort",
    )
    members = tuple(_member(index) for index in range(VEHICLES))
    heard = {
        member.vehicle: Heard(_report(new if member.wave == 0 else old, new if index % 50 == 0 else None), True)
        for index, member in enumerate(members)
    }
    begin_s = time.perf_counter()
    decided = plan(Rollout(spec, members), heard, now_s=1.0)
    seconds = time.perf_counter() - begin_s
    assert len(decided.offer) == VEHICLES // 2
    assert sum(member.state == "failed" for member in decided.rollout.members) == VEHICLES // 100
    yield _figure("plan_100k_s", seconds, "s", bar=1.0)


def _member(index: int) -> Member:
    state: MemberState = "offered" if index * 2 < VEHICLES else "waiting"
    offered_at_s = 0.0 if state == "offered" else None
    return Member(
        f"v-{index}", index * 2 // VEHICLES, state, offered_at_s, offered_at_s, cohort=f"hardware-{index % COHORTS}"
    )


def _report(running: ReleaseRef, refused: ReleaseRef | None) -> Reported:
    slot = ReportedSlot(
        task=running.task,
        running=running,
        runtime="onnx",
        precision="int8",
        state="idle" if refused is None else "refused",
        target=refused,
        error=None if refused is None else ErrorInfo(code="golden-mismatch", detail="made"),
    )
    return Reported(boot=1, agent_version="0.1.0", hardware="x86-64", desired_version=1, slots={"sign": slot})
