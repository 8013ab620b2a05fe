"""The plan of a rollout: a table of situations, and what holds whatever vehicles report."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_cloud.rollout import plan as planning
from roadloop_cloud.rollout.members import TIMED_OUT, Heard, Member
from roadloop_cloud.rollout.plan import abort, pause, resume
from roadloop_cloud.rollout.spec import RolloutSpec
from roadloop_cloud.rollout.state import ACTIVE, Plan, Rollout, RolloutState
from roadloop_cloud.rollout.waves import wave_order, wave_sizes
from roadloop_models.contract.messages import ErrorInfo, ReleaseRef, Reported, ReportedSlot, UpdateState
from roadloop_models.errors import ConfigError

OLD = ReleaseRef(task="traffic-sign", release=1, version="v1", manifest_sha256="1" * 64)
NEW = ReleaseRef(task="traffic-sign", release=2, version="v2", manifest_sha256="2" * 64)


def spec(sizes: tuple[int, ...] = (1, 2, 3), **changes: float) -> RolloutSpec:
    values: dict[str, float] = {
        "success_threshold": 1.0,
        "error_threshold": 0.3,
        "min_executed": 1,
        "soak_s": 10.0,
        "timeout_s": 100.0,
    }
    return RolloutSpec(release=NEW, wave_sizes=sizes, **{**values, **changes})  # type: ignore[arg-type]


def rollout(**changes: object) -> Rollout:
    made = spec(**changes)  # type: ignore[arg-type]
    waves = [wave for wave, size in enumerate(made.wave_sizes) for _ in range(size)]
    return Rollout(made, tuple(Member(f"v{index}", wave) for index, wave in enumerate(waves)))


def says(state: UpdateState, running: ReleaseRef = OLD, target: ReleaseRef | None = NEW, code: str = "") -> Reported:
    error = ErrorInfo(code=code, detail="why") if code else None
    slot = ReportedSlot(
        task="traffic-sign", running=running, runtime="onnx", precision="int8", state=state, target=target, error=error
    )
    return Reported(boot=1, agent_version="0.1.0", hardware="x86-64", desired_version=1, slots={"sign": slot})


def plan(made: Rollout, reports: Mapping[str, Reported | None], now_s: float) -> Plan:
    """One step; every vehicle is online, and has said what is in `reports`, or nothing."""
    heard = {member.vehicle: Heard(reports.get(member.vehicle), online=True) for member in made.members}
    return planning.plan(made, heard, now_s)


DONE = says("idle", running=NEW, target=None)
FAILED = says("rolled-back", code="health-failed")


def states(made: Rollout) -> list[str]:
    return [member.state for member in made.members]


def test_first_step_offers_the_first_wave_only() -> None:
    made = plan(rollout(), {}, 0.0)
    assert made.offer == ("v0",)
    assert states(made.rollout) == ["offered", *["waiting"] * 5]


def test_offering_is_not_repeated() -> None:
    first = plan(rollout(), {}, 0.0).rollout
    assert plan(first, {}, 1.0) == Plan(first)


def test_the_next_wave_comes_after_the_soak() -> None:
    first = plan(rollout(), {}, 0.0).rollout
    soaking = plan(first, {"v0": DONE}, 5.0).rollout
    assert soaking.soak_since_s == 5.0
    assert plan(soaking, {"v0": DONE}, 14.9).offer == ()
    assert plan(soaking, {"v0": DONE}, 15.0).offer == ("v1", "v2")


def test_all_waves_end_in_success() -> None:
    made, now_s = rollout(soak_s=0.0), 0.0
    reports: dict[str, Reported] = {}
    for _ in range(10):
        step = plan(made, reports, now_s)
        reports |= dict.fromkeys(step.offer, DONE)
        made, now_s = step.rollout, now_s + 1
    assert made.state == "succeeded"
    assert states(made) == ["succeeded"] * 6


@pytest.mark.parametrize("state", ["waiting", "fetching", "testing", "installing", "trial"])
def test_an_update_under_way_decides_nothing(state: UpdateState) -> None:
    first = plan(rollout(), {}, 0.0).rollout
    assert plan(first, {"v0": says(state)}, 1.0) == Plan(first)


def test_a_trial_that_already_runs_the_release_decides_nothing() -> None:
    first = plan(rollout(), {}, 0.0).rollout
    assert plan(first, {"v0": says("trial", running=NEW)}, 1.0) == Plan(first)


@pytest.mark.parametrize("state", ["rolled-back", "refused"])
def test_a_failure_takes_back_what_was_offered(state: UpdateState) -> None:
    first = plan(rollout(), {}, 0.0).rollout
    step = plan(first, {"v0": says(state, code="trust-refused")}, 1.0)
    assert step.rollout.state == "failed"
    assert step.take_back == ("v0",)
    assert "trust-refused" in step.rollout.reason


def test_a_refusal_of_another_release_is_no_failure() -> None:
    first = plan(rollout(), {}, 0.0).rollout
    other = says("refused", target=replace_release(NEW, 7), code="trust-refused")
    assert plan(first, {"v0": other}, 1.0) == Plan(first)


def replace_release(ref: ReleaseRef, release: int) -> ReleaseRef:
    return ReleaseRef(task=ref.task, release=release, version=ref.version, manifest_sha256=ref.manifest_sha256)


def test_failures_of_a_later_wave_take_back_the_earlier_ones_too() -> None:
    made = plan(rollout(soak_s=0.0), {}, 0.0).rollout
    made = plan(made, {"v0": DONE}, 1.0).rollout
    step = plan(made, {"v0": DONE, "v1": FAILED, "v2": FAILED}, 2.0)
    assert set(step.take_back) == {"v0", "v1", "v2"}


def test_too_few_have_finished_to_take_it_back_so_the_gate_pauses_it() -> None:
    first = plan(rollout(min_executed=5), {}, 0.0).rollout
    step = plan(first, {"v0": FAILED}, 1.0)
    assert step.rollout.state == "paused"
    assert step.take_back == ()
    assert "health-failed" in step.rollout.reason


def test_resume_lets_the_held_wave_pass_once() -> None:
    held = plan(plan(rollout(min_executed=5, soak_s=0.0), {}, 0.0).rollout, {"v0": FAILED}, 1.0).rollout
    step = plan(resume(held), {"v0": FAILED}, 2.0)
    assert step.offer == ("v1", "v2")
    again = plan(step.rollout, {"v0": FAILED, "v1": FAILED, "v2": DONE}, 3.0).rollout
    assert again.state == "paused"


def test_resume_after_a_person_paused_waives_nothing() -> None:
    made = resume(pause(plan(rollout(), {}, 0.0).rollout, "lunch"))
    assert made.state == "running"
    assert made.waived_wave == -1


def test_a_paused_rollout_offers_nothing_but_is_watched() -> None:
    made = pause(plan(rollout(soak_s=0.0), {}, 0.0).rollout, "lunch")
    assert plan(made, {"v0": DONE}, 1.0).offer == ()
    assert plan(made, {"v0": FAILED}, 1.0).rollout.state == "failed"


def test_silence_becomes_a_failure() -> None:
    first = plan(rollout(), {"v0": None}, 0.0).rollout
    assert plan(first, {"v0": None}, 100.0).rollout.state == "running"
    step = plan(first, {"v0": None}, 100.1)
    assert step.rollout.members[0].error is not None
    assert step.rollout.members[0].error.code == TIMED_OUT
    assert step.rollout.state == "failed"


def test_a_late_success_counts() -> None:
    late = plan(plan(rollout(min_executed=5), {"v0": None}, 0.0).rollout, {"v0": None}, 101.0).rollout
    assert late.state == "paused"
    assert plan(late, {"v0": DONE}, 102.0).rollout.members[0].state == "succeeded"


def test_a_vehicle_that_takes_it_back_during_the_soak_has_failed() -> None:
    soaking = plan(plan(rollout(), {}, 0.0).rollout, {"v0": DONE}, 1.0).rollout
    assert plan(soaking, {"v0": FAILED}, 2.0).rollout.state == "failed"


def test_every_slot_of_the_task_must_run_it() -> None:
    first = plan(rollout(), {}, 0.0).rollout
    slots = {"left": DONE.slots["sign"], "right": says("fetching").slots["sign"]}
    two = Reported(boot=1, agent_version="0.1.0", hardware="x86-64", desired_version=1, slots=slots)
    assert plan(first, {"v0": two}, 1.0).rollout.members[0].state == "offered"


@pytest.mark.parametrize(("all_of_them", "expected"), [(False, {"v1", "v2"}), (True, {"v0", "v1", "v2"})])
def test_abort(all_of_them: bool, expected: set[str]) -> None:
    made = plan(plan(rollout(soak_s=0.0), {}, 0.0).rollout, {"v0": DONE}, 1.0).rollout
    step = abort(made, all_of_them)
    assert step.rollout.state == "aborted"
    assert set(step.take_back) == expected


@pytest.mark.parametrize("state", ["succeeded", "failed", "aborted"])
def test_the_end_is_the_end(state: RolloutState) -> None:
    ended = replace(rollout(), state=state)
    assert plan(ended, {"v0": FAILED}, 1e6) == Plan(ended)
    assert abort(ended, True) == Plan(ended)
    assert resume(ended) == pause(ended, "x") == ended


_REPORTS = st.sampled_from(
    [None, DONE, FAILED, says("fetching"), says("trial", running=NEW), says("refused", code="trust-refused")]
)


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    success=st.sampled_from([0.0, 0.5, 1.0]),
    error=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    least=st.integers(1, 4),
    data=st.data(),
)
def test_what_holds_whatever_is_reported(
    sizes: list[int], success: float, error: float, least: int, data: st.DataObject
) -> None:
    made = rollout(sizes=tuple(sizes), success_threshold=success, error_threshold=error, min_executed=least, soak_s=3.0)
    reports: dict[str, Reported | None] = {member.vehicle: None for member in made.members}
    ever_offered: set[str] = set()
    for now_s in range(0, 200, 7):
        before, step = made, plan(made, reports, float(now_s))
        made = step.rollout
        assert plan(made, reports, float(now_s)) == Plan(made), "the same again changes nothing"
        assert not ever_offered & set(step.offer), "nobody is offered it twice"
        assert {m.wave for m in made.members if m.vehicle in step.offer} <= {made.wave}, "one wave at a time"
        assert made.wave in (before.wave, before.wave + 1)
        ever_offered |= set(step.offer)
        for member in made.members:
            assert (member.state != "waiting") == (member.vehicle in ever_offered)
        if step.offer:
            assert before.state == "running"
            earlier = [m for m in made.members if m.wave < made.wave]
            assert all(m.state in ("succeeded", "failed") for m in earlier)
            last = [m for m in made.members if m.wave == made.wave - 1]
            assert sum(m.state == "succeeded" for m in last) >= success * len(last) or before.waived_wave >= before.wave
            failed = sum(m.state == "failed" for m in made.members)
            executed = failed + sum(m.state == "succeeded" for m in made.members)
            assert executed < least or failed <= error * executed
        if made.state == "failed":
            assert set(step.take_back) == ever_offered
            break
        if made.state not in ACTIVE:
            break
        if made.state == "paused" and data.draw(st.booleans()):
            made = resume(made)
        for vehicle in sorted(ever_offered):
            said = data.draw(_REPORTS)
            if said is not None:
                reports[vehicle] = said


@pytest.mark.parametrize(
    ("waves", "vehicles", "expected"),
    [
        (("1", "50%", "100%"), 6, (1, 2, 3)),
        (("1", "50%", "100%"), 1, (1,)),
        (("1", "50%", "100%"), 7, (1, 3, 3)),
        (("100%",), 5, (5,)),
        (("2", "4", "9"), 6, (2, 2, 2)),
        (("10%", "100%"), 3, (1, 2)),
        (("1", "10%", "100%"), 100, (1, 9, 90)),
        (("0.1%", "100%"), 1000, (1, 999)),
    ],
)
def test_wave_sizes(waves: tuple[str, ...], vehicles: int, expected: tuple[int, ...]) -> None:
    assert wave_sizes(waves, vehicles) == expected


@pytest.mark.parametrize("waves", [("0",), ("101%",), ("-1%",), ("x",), ("1",), ("3", "1", "100%"), ("nan%",), ()])
def test_wave_sizes_refused(waves: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="wave"):
        wave_sizes(waves, 6)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=5), st.integers(1, 300))
def test_waves_reach_everybody_once(shares: list[int], vehicles: int) -> None:
    waves = (*(f"{share}%" for share in sorted(shares)), "100%")
    sizes = wave_sizes(waves, vehicles)
    assert sum(sizes) == vehicles
    assert min(sizes) > 0


def test_wave_order_begins_with_who_can_answer_and_varies_with_the_release() -> None:
    vehicles = [f"v{index}" for index in range(20)]
    online = frozenset({"v7", "v13"})
    assert set(wave_order(vehicles, online, "a")[:2]) == online
    assert wave_order(vehicles, online, "a") == wave_order(reversed(vehicles), online, "a")
    assert wave_order(vehicles, online, "a") != wave_order(vehicles, online, "b")
