"""Real broker, fleet process, director and agents: a release in the shadow of the fleet, judged by what all saw."""

import pytest

from roadloop_cloud.fleet.choosing import Chosen
from roadloop_cloud.rollout.evidence import Bound
from roadloop_cloud.rollout.shadow_runs import ShadowRun
from roadloop_models.contract.messages import ShadowPolicy
from tests.fakes.live_cloud import wait_until
from tests.integration.test_fleet_agents import TASK, VEHICLES, Fleet, fleet

__all__ = ["fleet"]


@pytest.mark.slow
def test_a_fleet_runs_a_release_in_the_shadow_and_the_test_fails_one_that_decides_otherwise(fleet: Fleet) -> None:
    second = fleet.release("tiny-2", seed=9)
    started = fleet.app.shadows.start(TASK, second, Chosen(everyone=True), ShadowPolicy(max_cpu_share=0.3))
    assert started == list(VEHICLES)

    def run() -> ShadowRun:
        (found,) = fleet.app.shadows.show(TASK, Bound())
        return found

    wait_until("all vehicles compare", lambda: run().evidence.vehicles == len(VEHICLES), timeout_s=120)
    wait_until("the test is sure", lambda: run().evidence.verdict == "fail", timeout_s=120)
    assert run().evidence.reason.startswith("disagreement") and run().evidence.sums.errors == 0
    assert set(fleet.running().values()) == {"tiny-1"}

    fleet.app.shadows.stop(TASK, Chosen(everyone=True))
    assert fleet.app.shadows.show(TASK, Bound()) == []

    def shadows() -> list[object]:
        return [(row.reported or {})["slots"]["sign"].get("shadow") for row in fleet.app.vehicles.list()]

    wait_until("no vehicle has a shadow any more", lambda: not any(shadows()), timeout_s=60)
