"""Cohorts, silence, ramps, approvals and shadows in a rollout's plan, and what holds whatever is reported."""

import random
from collections.abc import Mapping
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_cloud.rollout.cohorts import Counts
from roadloop_cloud.rollout.evidence import Bound
from roadloop_cloud.rollout.members import Heard, Member
from roadloop_cloud.rollout.plan import plan, resume, roll_back
from roadloop_cloud.rollout.spec import Ramp, RolloutSpec, ShadowSpec
from roadloop_cloud.rollout.state import ACTIVE, Approval, Plan, Rollout
from roadloop_models.contract.messages import (
    ErrorInfo,
    Policy,
    ReleaseRef,
    Reported,
    ReportedSlot,
    ShadowReport,
    UpdateState,
)

OLD = ReleaseRef(task="traffic-sign", release=1, version="v1", manifest_sha256="1" * 64)
NEW = ReleaseRef(task="traffic-sign", release=2, version="v2", manifest_sha256="2" * 64)
SPEED_OLD = ReleaseRef(task="traffic-speed", release=1, version="v1", manifest_sha256="3" * 64)
SPEED_NEW = ReleaseRef(task="traffic-speed", release=5, version="v5", manifest_sha256="4" * 64)


def spec(sizes: tuple[int, ...] = (4, 8), **changes: object) -> RolloutSpec:
    made = RolloutSpec(
        release=NEW,
        wave_sizes=sizes,
        success_threshold=0.9,
        error_threshold=0.2,
        min_executed=1,
        soak_s=0.0,
        timeout_s=100.0,
        on_failure="cohort",
    )
    return msgspec.structs.replace(made, **changes)


def rollout(made: RolloutSpec, cohorts: tuple[str, ...] = ("pi", "x86")) -> Rollout:
    """Vehicle number n is of cohort n modulo their number."""
    waves = [wave for wave, size in enumerate(made.wave_sizes) for _ in range(size)] or [-1] * 20
    members = [Member(f"v{n}", wave, cohort=cohorts[n % len(cohorts)]) for n, wave in enumerate(waves)]
    return Rollout(made, tuple(members))


def slot(state: UpdateState, running: ReleaseRef, target: ReleaseRef | None = None, **more: object) -> ReportedSlot:
    error = ErrorInfo(code="health-failed", detail="why") if state in ("rolled-back", "refused") else None
    return ReportedSlot(
        task=running.task, running=running, runtime="onnx", precision="int8", state=state, target=target, error=error,
        **more,  # type: ignore[arg-type]
    )  # fmt: skip


def says(*slots: ReportedSlot) -> Heard:
    named = {f"slot-{number}": one for number, one in enumerate(slots)}
    return Heard(
        Reported(boot=1, agent_version="0.1.0", hardware="x86-64", desired_version=1, slots=named), online=True
    )


DONE = says(slot("idle", NEW))
FAILED = says(slot("rolled-back", OLD, NEW))
FETCHING = says(slot("fetching", OLD, NEW))
SILENT = Heard(None, online=False)


def run(made: Rollout, words: Mapping[str, Heard], now_s: float, steps: int = 1) -> Plan:
    step = Plan(made)
    for _ in range(steps):
        step = plan(step.rollout, words, now_s)
    return step


def states(made: Rollout, *cohorts: str) -> set[tuple[str, bool]]:
    return {(m.state, m.taken_back) for m in made.members if not cohorts or m.cohort in cohorts}


# Cohorts


def test_only_the_cohort_that_suffers_is_taken_back_and_the_others_go_on() -> None:
    made = plan(rollout(spec()), {}, 0.0).rollout
    step = plan(made, {"v0": FAILED, "v1": DONE, "v2": FETCHING, "v3": DONE}, 1.0)
    assert set(step.take_back) == {"v0", "v2"}, "the one that failed, and the one of its kind that was still at it"
    assert set(step.offer) == {"v5", "v7", "v9", "v11"}, "the next wave without the cohort"
    assert "pi" in step.rollout.reason and "health-failed" in step.rollout.reason
    end = plan(step.rollout, {f"v{n}": DONE for n in range(1, 12, 2)}, 2.0)
    assert end.rollout.state == "succeeded"
    assert states(end.rollout, "x86") == {("succeeded", False)}
    assert end.rollout.reason == "taken back from pi"


def test_a_cohort_may_pause_the_rest() -> None:
    made = plan(rollout(spec(after_cohort="pause")), {}, 0.0).rollout
    step = plan(made, {"v0": FAILED, "v1": DONE, "v2": FETCHING, "v3": DONE}, 1.0)
    assert (step.rollout.state, step.offer) == ("paused", ())
    assert set(step.take_back) == {"v0", "v2"}
    assert set(plan(resume(step.rollout), {"v1": DONE, "v3": DONE}, 2.0).offer) == {"v5", "v7", "v9", "v11"}


def test_failures_in_all_cohorts_take_it_back_from_all() -> None:
    made = plan(rollout(spec()), {}, 0.0).rollout
    step = plan(made, {"v0": FAILED, "v1": FAILED, "v2": DONE, "v3": DONE}, 1.0)
    assert step.rollout.state == "failed"
    assert set(step.take_back) == {"v0", "v1", "v2", "v3"}


def test_failures_that_are_spread_thin_take_it_back_from_all() -> None:
    cohorts = tuple(f"kind-{n}" for n in range(4))
    made = plan(rollout(spec((8,), min_executed=3), cohorts), {}, 0.0).rollout
    step = plan(made, {f"v{n}": FAILED if n < 4 else DONE for n in range(8)}, 1.0)
    assert step.rollout.state == "failed", "no cohort has three that finished, all together have eight"


def test_where_nobody_of_the_wave_is_left_a_person_decides() -> None:
    made = plan(rollout(spec((1, 5))), {}, 0.0).rollout
    step = plan(made, {"v0": FAILED}, 1.0)
    assert (step.rollout.state, step.take_back) == ("paused", ("v0",))
    assert "nobody of wave 1 is left" in step.rollout.reason
    assert set(plan(resume(step.rollout), {}, 2.0).offer) == {"v1", "v3", "v5"}


@pytest.mark.parametrize(("on_failure", "state", "back"), [("all", "failed", 4), ("pause", "paused", 0)])
def test_other_answers_to_failures(on_failure: str, state: str, back: int) -> None:
    made = plan(rollout(spec(on_failure=on_failure)), {}, 0.0).rollout
    step = plan(made, {"v0": FAILED, "v1": DONE, "v2": FETCHING, "v3": DONE}, 1.0)
    assert (step.rollout.state, len(step.take_back)) == (state, back)


def test_resume_after_a_pause_for_failures_goes_on_with_them() -> None:
    words = {"v0": FAILED, "v1": DONE, "v2": DONE, "v3": DONE}
    held = plan(plan(rollout(spec(on_failure="pause")), {}, 0.0).rollout, words, 1.0).rollout
    assert len(plan(resume(held), words, 2.0).offer) == 8


def test_a_person_takes_it_back_from_a_cohort_or_after_its_success_from_all() -> None:
    made = plan(rollout(spec((4,))), {}, 0.0).rollout
    one = roll_back(made, "by a person", "pi")
    assert (set(one.take_back), one.rollout.state) == ({"v0", "v2"}, "running")
    ended = plan(made, {f"v{n}": DONE for n in range(4)}, 1.0).rollout
    assert ended.state == "succeeded"
    back = roll_back(ended, "by a person")
    assert (back.rollout.state, len(back.take_back)) == ("failed", 4)


# Silence


def test_who_never_connected_is_late_and_holds_nobody_up() -> None:
    words = {"v0": DONE, "v1": DONE, "v2": DONE, "v3": SILENT}
    made = plan(rollout(spec()), {}, 0.0).rollout
    assert plan(made, words, 100.0).offer == ()
    step = plan(made, words, 100.1)
    assert step.rollout.members[3].state == "late"
    assert len(step.offer) == 8
    connected = plan(step.rollout, {**words, "v3": FETCHING}, 5000.0).rollout
    assert connected.members[3].state == "offered", "its time begins with its first contact"
    assert plan(connected, {**words, "v3": FETCHING}, 5100.1).rollout.members[3].state == "failed"
    assert plan(connected, {**words, "v3": DONE}, 9999.0).rollout.members[3].state == "succeeded"


def test_a_wave_of_which_too_few_finished_waits() -> None:
    made = plan(rollout(spec(min_executed=3)), {}, 0.0).rollout
    step = plan(made, {"v0": DONE, "v1": DONE}, 200.0)
    assert (step.rollout.state, step.offer) == ("running", ())
    assert len(plan(resume(step.rollout), {"v0": DONE, "v1": DONE}, 201.0).offer) == 8, "unless a person lets it pass"


def test_a_vehicle_that_waits_for_its_window_is_not_failed_by_time_out() -> None:
    ready = says(slot("ready", OLD, NEW, waits_for="window"))
    made = plan(rollout(spec((1,))), {"v0": ready}, 0.0).rollout
    for now_s in range(0, 1000, 20):
        made = plan(made, {"v0": ready}, float(now_s)).rollout
    assert made.members[0].state == "offered"
    for now_s in range(1000, 1140, 20):
        made = plan(made, {"v0": FETCHING}, float(now_s)).rollout
    assert made.members[0].state == "failed"


def test_a_vehicle_that_later_runs_something_else_has_not_succeeded() -> None:
    made = plan(rollout(spec()), {}, 0.0).rollout
    made = plan(made, {f"v{n}": DONE for n in range(3)}, 1.0).rollout
    reset = plan(made, {"v0": says(slot("idle", OLD)), "v1": DONE, "v2": DONE, "v3": DONE}, 2.0)
    assert reset.rollout.members[0].state == "offered"
    assert reset.offer == (), "the next wave waits for it"


def test_trouble_that_came_with_the_release_holds_the_next_wave() -> None:
    trouble = ErrorInfo(code="source-lost", detail="no frames")
    before = says(slot("idle", OLD, trouble=trouble))
    made = plan(rollout(spec((2, 2))), {"v0": before}, 0.0).rollout
    ill, well = says(slot("idle", NEW, trouble=trouble)), DONE
    assert plan(made, {"v0": ill, "v1": well}, 1.0).offer != (), "it was in trouble before"
    held = plan(made, {"v0": well, "v1": ill}, 1.0)
    assert (held.rollout.state, held.offer) == ("running", ())
    assert plan(held.rollout, {"v0": well, "v1": well}, 2.0).offer != ()


# Several releases at once


def test_all_releases_have_to_run() -> None:
    made = plan(rollout(spec((1,), also=(SPEED_NEW,))), {}, 0.0).rollout
    half = says(slot("idle", NEW), slot("trial", SPEED_NEW, SPEED_NEW))
    assert plan(made, {"v0": half}, 1.0).rollout.members[0].state == "offered"
    assert plan(made, {"v0": says(slot("idle", NEW))}, 1.0).rollout.members[0].state == "offered", "a slot is missing"
    both = says(slot("idle", NEW), slot("idle", SPEED_NEW))
    assert plan(made, {"v0": both}, 1.0).rollout.state == "succeeded"
    failed = says(slot("idle", OLD), slot("rolled-back", SPEED_OLD, SPEED_NEW))
    assert plan(made, {"v0": failed}, 1.0).rollout.state == "failed"


# Ramps


def test_a_ramp_grows_by_what_succeeded() -> None:
    made = rollout(spec((), ramp=Ramp(first=1, factor=2.0), success_threshold=0.5, error_threshold=1.0))
    words: dict[str, Heard] = {}
    waves = []
    for now_s in range(12):
        step = plan(made, words, float(now_s))
        made = step.rollout
        if step.offer:
            waves.append(len(step.offer))
            bad = step.offer[:1] if len(step.offer) == 4 else ()
            words |= {vehicle: FAILED if vehicle in bad else DONE for vehicle in step.offer}
    assert waves == [1, 2, 4, 6, 7], "of the four three succeeded; the last wave is what is left of twenty"
    assert made.state == "succeeded"


# Approvals


def approved(made: Rollout, *said: tuple[str, int, bool]) -> Rollout:
    return replace(
        made,
        approvals=tuple(
            Approval(operator=name, wave=wave, approve=yes, place=n) for n, (name, wave, yes) in enumerate(said)
        ),
    )


def test_a_wave_waits_for_as_many_people_as_it_needs() -> None:
    made = rollout(spec(approvals=2))
    assert plan(made, {}, 0.0).offer == ()
    assert plan(approved(made, ("ann", 1, True), ("ann", 1, True)), {}, 0.0).offer == (), "one person is one"
    assert len(plan(approved(made, ("ann", 1, True), ("bob", 2, True)), {}, 0.0).offer) == 4
    words = {f"v{n}": DONE for n in range(4)}
    first = plan(approved(made, ("ann", 1, True), ("bob", 2, True)), {}, 0.0).rollout
    second = plan(first, words, 1.0)
    assert (second.rollout.wave, second.offer) == (1, ()), "ann has approved only the first wave"
    assert len(plan(approved(second.rollout, ("ann", 2, True), ("bob", 2, True)), words, 2.0).offer) == 8


def test_a_rejection_holds_until_the_same_person_approves() -> None:
    made = rollout(spec(approvals=1))
    against = approved(made, ("ann", 1, True), ("bob", 1, False))
    assert plan(against, {}, 0.0).offer == ()
    assert plan(approved(made, ("bob", 1, False), ("ann", 9, True)), {}, 0.0).offer == ()
    assert plan(approved(made, ("bob", 1, False), ("bob", 1, True)), {}, 0.0).offer != ()


# Shadow


def shadowed(frames: int, disagreed: int, state: str = "running", error: ErrorInfo | None = None) -> Heard:
    report = ShadowReport(
        ref=NEW, state=state, error=error, frames=frames, disagreed=disagreed,  # type: ignore[arg-type]
        confidence_frames=frames, latency_counts=(0, frames), incumbent_latency_counts=(0, frames),
    )  # fmt: skip
    return says(slot("idle", OLD, shadow=report))


SHADOW = ShadowSpec(bound=Bound(like_frames=1, max_refused=1.0), max_s=1000.0)


def test_a_wave_runs_it_in_the_shadow_before_it_is_offered() -> None:
    begun = plan(rollout(spec(shadow=SHADOW)), {}, 0.0)
    assert (set(begun.shadow), begun.offer) == ({"v0", "v1", "v2", "v3"}, ())
    waiting = plan(begun.rollout, {"v0": shadowed(10, 0)}, 1.0)
    assert waiting == Plan(begun.rollout)
    passed = plan(begun.rollout, {f"v{n}": shadowed(5000, 5) for n in range(3)}, 2.0)
    assert set(passed.offer) == {"v0", "v1", "v2", "v3"}
    (proof,) = passed.rollout.proofs
    assert (proof.decision, proof.frames, proof.disagreed) == ("pass", 15000, 15)
    second = run(passed.rollout, {f"v{n}": DONE for n in range(4)}, 3.0)
    assert (len(second.shadow), second.offer) == (8, ()), "every wave is proven anew"


def test_a_release_that_differs_too_much_in_the_shadow_is_never_offered() -> None:
    begun = plan(rollout(spec(shadow=SHADOW)), {}, 0.0)
    step = plan(begun.rollout, {f"v{n}": shadowed(5000, 2500) for n in range(4)}, 1.0)
    assert (step.rollout.state, step.offer, step.take_back) == ("failed", (), ())
    assert set(step.unshadow) == {"v0", "v1", "v2", "v3"}
    assert "disagreement" in step.rollout.reason


def test_a_vehicle_that_cannot_run_it_in_the_shadow_has_failed_with_its_cohort() -> None:
    begun = plan(rollout(spec(shadow=SHADOW)), {}, 0.0)
    refused = shadowed(0, 0, "refused", ErrorInfo(code="golden-mismatch", detail="why"))
    step = plan(begun.rollout, {"v0": refused, "v1": shadowed(50, 0)}, 1.0)
    assert set(step.unshadow) == {"v0", "v2"}
    assert states(step.rollout, "pi") == {("failed", True), ("shadow", True), ("waiting", True)}
    assert states(step.rollout, "x86") == {("shadow", False), ("waiting", False)}


def test_a_test_that_does_not_decide_pauses() -> None:
    begun = plan(rollout(spec(shadow=SHADOW)), {}, 0.0).rollout
    held = plan(begun, {"v0": shadowed(10, 0)}, 1000.1).rollout
    assert held.state == "paused" and "not decided" in held.reason
    assert plan(resume(held), {"v0": shadowed(10, 0)}, 1001.0).rollout.state == "running"


# What holds whatever is reported

_WORDS = st.sampled_from(["done", "failed", "fetching", "silent", "reset"])
_SAID = {"done": DONE, "failed": FAILED, "fetching": FETCHING, "silent": SILENT, "reset": says(slot("idle", OLD))}


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.integers(1, 3),
    st.sampled_from(["cohort", "all", "pause"]),
    st.integers(1, 3),
    st.data(),
)
def test_taken_back_are_whole_cohorts_or_all(
    sizes: list[int], kinds: int, on_failure: str, least: int, data: st.DataObject
) -> None:
    made = rollout(spec(tuple(sizes), on_failure=on_failure, min_executed=least), tuple(f"c{n}" for n in range(kinds)))
    words: dict[str, Heard] = {}
    offered: set[str] = set()
    back: set[str] = set()
    for now_s in range(0, 300, 30):
        step = plan(made, words, float(now_s))
        made = step.rollout
        assert plan(made, words, float(now_s)) == Plan(made), "the same again changes nothing"
        assert not offered & set(step.offer) and not back & set(step.take_back), "nothing is done twice"
        assert not set(step.offer) & (back | set(step.take_back)), "what was taken back is not offered"
        offered |= set(step.offer)
        back |= set(step.take_back)
        assert back <= offered
        assert all(m.wave <= made.wave for m in made.members if m.vehicle in offered), "never beyond the wave"
        assert back == {m.vehicle for m in made.members if m.taken_back and m.vehicle in offered}
        if made.state not in ACTIVE:
            break
        for cohort in Counts(made.members).cohorts():
            mine = [m for m in made.members if m.cohort == cohort]
            assert len({m.taken_back for m in mine}) == 1, "a cohort is taken back as a whole, or not at all"
        if made.state == "paused" and data.draw(st.booleans()):
            made = resume(made)
        for vehicle in sorted(offered):
            words[vehicle] = _SAID[data.draw(_WORDS)]
    if made.state == "failed":
        assert back == offered


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_only_the_last_word_counts_whatever_came_before_it(seed: int, other_seed: int) -> None:
    """Two clouds hear the same last words after different, duplicated and contradictory ones: they agree."""
    final = {f"v{n}": [DONE, FAILED][random.Random(seed + n).random() < 0.1] for n in range(12)}

    def hears(order: random.Random) -> Rollout:
        made = rollout(spec((12,), error_threshold=1.0, success_threshold=0.0, soak_s=1000.0))
        made = plan(made, {}, 0.0).rollout
        words: dict[str, Heard] = {}
        for _ in range(30):
            words[f"v{order.randrange(12)}"] = order.choice([DONE, FAILED, FETCHING, SILENT])
            made = plan(made, words, 1.0).rollout
        for vehicle in order.sample(sorted(final), 12):
            words[vehicle] = final[vehicle]
            made = plan(made, words, 2.0).rollout
        return made

    one, other = hears(random.Random(seed)), hears(random.Random(other_seed))
    assert [(m.state, m.error, m.taken_back) for m in one.members] == [
        (m.state, m.error, m.taken_back) for m in other.members
    ]
    assert one.state == other.state


def test_the_policy_that_takes_back_does_not_wait() -> None:
    from roadloop_cloud.rollout.applying import at_once
    from roadloop_models.contract.messages import SwitchWhen

    asked = Policy(health_window_s=7.0, switch_when=SwitchWhen(parked=True, consent=True))
    assert at_once(asked) == Policy(health_window_s=7.0)
