"""The update machine, case by case: what it does in each phase, and what a kill or a newer wish does there.

One slot that goes by itself; slots that go together are in test_update_group.py.
"""

from dataclasses import dataclass, replace

import pytest

from roadloop_agent.update import events as e
from roadloop_agent.update import phases, preparing, trial
from roadloop_agent.update import state as states
from roadloop_agent.update.conditions import Facts
from roadloop_agent.update.group import InSlot, advance
from roadloop_agent.update.machine import step
from roadloop_agent.update.phases import Phase, SlotUpdate, recovered
from roadloop_agent.update.state import Ended, Outcome, Ready, SlotState, Trial
from roadloop_models.contract.messages import ErrorInfo, Policy, ReleaseRef, SwitchWhen

TASK, SLOT = "traffic-sign", "sign"
POLICY = Policy(health_window_s=30.0, max_error_rate=0.1)
ASKING = Policy(health_window_s=30.0, max_error_rate=0.1, switch_when=SwitchWhen(consent=True))
BROKEN = ErrorInfo(code="golden-mismatch", detail="vector 3 is off")


def ref(release: int, task: str = TASK) -> ReleaseRef:
    return ReleaseRef(task=task, release=release, version=f"v{release}", manifest_sha256=f"{release:064x}")


OLD, NEW, NEWER = ref(1), ref(2), ref(3)


@dataclass(frozen=True)
class Sample:
    ref: ReleaseRef | None
    decisions: int = 10
    errors: int = 0
    latency_mean_us: float = 200.0
    confidence_mean: float | None = 0.9
    idle: bool = False


def wish(release: ReleaseRef, version: int = 1, policy: Policy = POLICY) -> e.Desired:
    return e.Desired(release, policy, version)


def run(
    state: SlotUpdate, *events: e.Event, now_s: float = 0.0, facts: Facts | None = None
) -> tuple[SlotUpdate, list[e.SlotAction | e.GroupAction]]:
    actions: list[e.SlotAction | e.GroupAction] = []
    for event in events:
        after, more = advance({SLOT: state}, SLOT, event, facts or Facts(), now_s)
        state = after[SLOT]
        actions += [action.action if isinstance(action, InSlot) else action for action in more]
    return state, actions


def begins(release: ReleaseRef) -> e.BeginTrials:
    return e.BeginTrials({SLOT: Trial(release, POLICY)})


def takes_back(release: ReleaseRef, error: ErrorInfo | None) -> e.TakeBack:
    return e.TakeBack({SLOT: Ended(release, error)})


def idle(**changes: object) -> SlotUpdate:
    return replace(SlotUpdate(TASK, OLD, running=OLD), **changes)  # type: ignore[arg-type]


def at(phase: Phase) -> SlotUpdate:
    """The machine in that phase on the way from OLD to NEW."""
    state, _ = run(idle(), wish(NEW, policy=ASKING if phase is Phase.READY else POLICY))
    n = state.attempt
    path: list[tuple[Phase, e.Event]] = [
        (Phase.TESTING, e.FetchDone(n)),
        (Phase.INSTALLING, e.TestPassed(n)),
        (Phase.READY if phase is Phase.READY else Phase.STARTING, e.Installed(n)),
        (Phase.SWITCHING, e.TrialBegun(n)),
        (Phase.WATCHING, e.Switched(NEW, ok=True)),
    ]
    branch: dict[Phase, tuple[Phase, e.Event]] = {
        Phase.WAITING: (Phase.FETCHING, e.Failed(n, BROKEN)),
        Phase.REFUSED: (Phase.TESTING, e.Refused(n, BROKEN)),
        Phase.TAKING_BACK: (Phase.WATCHING, e.Health(Sample(NEW, decisions=0, errors=50))),
    }
    wanted, last = branch.get(phase, (phase, None))
    for reached, event in path:
        if state.phase is wanted:
            break
        state, _ = run(state, event)
        assert state.phase is reached
    if last is not None:
        state, _ = run(state, last)
    if phase is Phase.PASSED:
        state = replace(at(Phase.WATCHING), phase=Phase.PASSED)  # seen only where it waits for others
    if phase is Phase.CONFIRMING:
        state, _ = run(state, e.Health(Sample(NEW)), e.Tick(), now_s=0.0)
        state, _ = run(state, e.Tick(), now_s=31.0)
    if phase in (Phase.RETURNING, Phase.ROLLED_BACK):
        state, _ = run(at(Phase.TAKING_BACK), e.Stored(n, taken_back()))
    if phase is Phase.ROLLED_BACK:
        state, _ = run(state, e.Switched(OLD, ok=True))
    if phase is Phase.IDLE:
        state = idle()
    assert state.phase is phase
    return state


def taken_back() -> SlotState:
    return SlotState(confirmed=OLD, outcomes=(Outcome(ref=NEW, result="rolled-back", error=BROKEN),))


def on_trial() -> SlotState:
    return states.begin_trials({SLOT: SlotState(confirmed=OLD)}, {SLOT: Trial(NEW, POLICY)})[SLOT]


def kept() -> SlotState:
    return SlotState(confirmed=NEW, previous=OLD)


def test_a_healthy_release_is_kept() -> None:
    state, actions = run(idle(), wish(NEW))
    n = state.attempt
    state, more = run(state, e.Progress(n, 3, 7), e.FetchDone(n), e.TestPassed(n), e.Installed(n), e.TrialBegun(n))
    actions += more
    state, more = run(state, e.Switched(NEW, ok=True), e.Health(Sample(NEW)), now_s=10.0)
    assert state.phase is Phase.WATCHING and state.running == NEW and not more
    state, more = run(state, e.Tick(), now_s=40.0)
    actions += more
    state, more = run(state, e.Stored(n, kept()), now_s=40.0)
    assert [type(action) for action in actions] == [
        e.Fetch,
        e.Test,
        e.Install,
        e.BeginTrials,
        e.Switch,
        e.Confirm,
    ]
    assert (state.phase, state.confirmed, state.target, state.error) == (Phase.IDLE, NEW, None, None) and not more


def test_desired_equal_to_what_runs_does_nothing() -> None:
    state, actions = run(idle(), wish(OLD))
    assert state.phase is Phase.IDLE and not actions


def test_an_older_release_may_be_desired() -> None:
    state, actions = run(idle(confirmed=NEW, running=NEW), wish(OLD))
    assert state.phase is Phase.FETCHING and actions == [e.Fetch(state.attempt, OLD, POLICY)]


def test_a_release_for_another_task_is_refused() -> None:
    state, actions = run(idle(), wish(ref(2, "traffic-speed")))
    assert state.phase is Phase.REFUSED and not actions
    assert state.error is not None and "traffic-speed" in state.error.detail


@pytest.mark.parametrize("result", ["rolled-back", "refused"])
def test_a_release_with_an_outcome_is_not_tried_again(result: states.Result) -> None:
    outcomes = (Outcome(ref=NEW, result=result, error=BROKEN),)
    state, actions = run(idle(outcomes=outcomes), wish(NEW), wish(NEW, version=9))
    assert (state.phase.reported, state.target, state.error) == (result, NEW, BROKEN) and not actions


def test_a_newer_release_is_tried_after_one_that_was_rolled_back() -> None:
    state, actions = run(at(Phase.ROLLED_BACK), wish(NEWER, version=2))
    assert state.phase is Phase.FETCHING and actions == [e.Fetch(state.attempt, NEWER, POLICY)]


def test_trouble_with_the_metadata_is_refused_until_the_cloud_says_something_new() -> None:
    state, _ = run(idle(), wish(NEW))
    state, actions = run(state, e.Refused(state.attempt, BROKEN, final=False))
    assert state.phase is Phase.REFUSED and not actions and not state.outcomes
    assert run(state, wish(NEW, version=1))[0].phase is Phase.REFUSED
    assert run(state, wish(NEW, version=2))[0].phase is Phase.FETCHING


@pytest.mark.parametrize("phase", [Phase.FETCHING, Phase.TESTING, Phase.INSTALLING, Phase.READY])
def test_a_newer_wish_before_the_trial_supersedes_at_once(phase: Phase) -> None:
    before = at(phase)
    state, actions = run(before, wish(NEWER, version=2))
    assert state.phase is Phase.FETCHING and state.target == NEWER
    assert e.Fetch(state.attempt, NEWER, POLICY) in actions
    for late in (e.FetchDone(before.attempt), e.TestPassed(before.attempt), e.Failed(before.attempt, BROKEN)):
        assert run(state, late) == (state, []), "the answer to what was given up is dropped"


@pytest.mark.parametrize("phase", [Phase.FETCHING, Phase.TESTING, Phase.INSTALLING, Phase.WAITING])
def test_the_same_wish_again_keeps_the_work_under_way(phase: Phase) -> None:
    state, actions = run(at(phase), wish(NEW, version=2))
    assert state.target == NEW
    assert [type(action) for action in actions] == ([e.Fetch] if phase is Phase.WAITING else [])


@pytest.mark.parametrize(
    "phase", [Phase.FETCHING, Phase.TESTING, Phase.INSTALLING, Phase.READY, Phase.WAITING, Phase.REFUSED]
)
def test_a_wish_for_what_runs_ends_the_work(phase: Phase) -> None:
    state, actions = run(at(phase), wish(OLD, version=2))
    assert (state.phase, state.target, state.error) == (Phase.IDLE, None, None)
    assert (
        actions == ([e.RememberReady(SLOT, None)] if phase is Phase.READY else [])
        and state.attempt != at(phase).attempt
    ), "what is under way is given up"


@pytest.mark.parametrize("phase", [Phase.SWITCHING, Phase.WATCHING])
def test_a_newer_wish_waits_for_the_end_of_the_trial(phase: Phase) -> None:
    state, actions = run(at(phase), wish(NEWER, version=2))
    assert state.phase is phase and state.target == NEW and not actions
    state, _ = run(state, e.Switched(NEW, ok=True), e.Health(Sample(NEW)))
    state, _ = run(state, e.Tick(), now_s=31.0)
    state, actions = run(state, e.Stored(state.attempt, kept()), now_s=31.0)
    assert state.phase is Phase.FETCHING and state.target == NEWER and state.confirmed == NEW


def test_a_newer_wish_is_taken_up_after_a_roll_back() -> None:
    state, _ = run(at(Phase.TAKING_BACK), wish(NEWER, version=2))
    state, _ = run(state, e.Stored(state.attempt, taken_back()), e.Switched(OLD, ok=True))
    assert state.phase is Phase.FETCHING and state.target == NEWER


@pytest.mark.parametrize("phase", [Phase.SWITCHING, Phase.WATCHING])
def test_a_wish_for_the_version_before_ends_the_trial_without_blame(phase: Phase) -> None:
    state, actions = run(at(phase), wish(OLD, version=2))
    assert actions == [e.Switch(OLD), takes_back(NEW, None)]
    state, _ = run(state, e.Switched(OLD, ok=True), e.Stored(state.attempt, SlotState(confirmed=OLD)))
    assert state.phase is Phase.IDLE and not state.outcomes
    assert run(state, wish(NEW, version=3))[0].phase is Phase.FETCHING


def test_retries_back_off_to_a_bound() -> None:
    state, waits = at(Phase.FETCHING), []
    now_s = 0.0
    for _ in range(12):
        state, _ = run(state, e.Failed(state.attempt, BROKEN, jitter=1.0), now_s=now_s)
        waits.append(state.due_s - now_s)
        assert state.error == BROKEN
        now_s = state.due_s
        assert run(state, e.Tick(), now_s=now_s - 0.01)[0].phase is Phase.WAITING
        state, actions = run(state, e.Tick(), now_s=now_s)
        assert actions == [e.Fetch(state.attempt, NEW, POLICY)]
    assert waits[:4] == pytest.approx([2.0, 4.0, 8.0, 16.0]) and waits[-1] == pytest.approx(preparing.BACKOFF_MAX_S)


@pytest.mark.parametrize("phase", [Phase.FETCHING, Phase.TESTING, Phase.INSTALLING, Phase.STARTING])
def test_refused_before_the_trial_leaves_what_runs(phase: Phase) -> None:
    state, actions = run(at(phase), e.Refused(at(phase).attempt, BROKEN))
    assert (state.phase, state.running, state.confirmed) == (Phase.REFUSED, OLD, OLD)
    assert actions == [e.RecordRefused(NEW, BROKEN)]


def test_an_unhealthy_release_is_taken_back() -> None:
    state, actions = run(at(Phase.WATCHING), e.Health(Sample(NEW, decisions=10, errors=20)))
    assert state.error is not None and state.error.code == "health-failed"
    assert actions == [e.Switch(OLD), takes_back(NEW, state.error)]
    state, actions = run(state, e.Stored(state.attempt, taken_back()))
    assert state.phase is Phase.RETURNING and actions == [e.Switch(OLD)]
    state, _ = run(state, e.Switched(OLD, ok=True))
    assert (state.phase, state.running, state.target, state.error) == (Phase.ROLLED_BACK, OLD, NEW, BROKEN)


def test_a_full_disk_does_not_keep_a_bad_release_driving() -> None:
    state, _ = run(at(Phase.TAKING_BACK), e.Failed(at(Phase.TAKING_BACK).attempt, BROKEN), e.Switched(OLD, ok=True))
    assert state.phase is Phase.TAKING_BACK and state.running == OLD
    state, actions = run(state, e.Tick(), now_s=trial.STORE_RETRY_S)
    assert [type(action) for action in actions] == [e.TakeBack]


def test_a_release_that_drive_cannot_load_is_taken_back() -> None:
    _, actions = run(at(Phase.SWITCHING), e.Switched(NEW, ok=False, error=BROKEN))
    assert actions == [e.Switch(OLD), takes_back(NEW, BROKEN)]


def test_drive_that_does_not_answer_is_asked_again_and_then_given_up() -> None:
    state, asked, now_s = at(Phase.SWITCHING), 1, 0.0
    while state.phase is Phase.SWITCHING:
        now_s += trial.SWITCH_TIMEOUT_S
        state, actions = run(state, e.Tick(), now_s=now_s)
        asked += sum(action == e.Switch(NEW) for action in actions)
    assert asked == trial.SWITCH_TIMES and state.phase is Phase.TAKING_BACK


def test_killed_while_preparing_begins_again_when_desired_comes() -> None:
    state = recovered(TASK, SlotState(confirmed=OLD), 1)
    assert state.phase is Phase.IDLE
    assert run(state, wish(NEW))[0].phase is Phase.FETCHING


def test_killed_between_trial_and_switch_asks_drive_to_switch() -> None:
    state, actions = run(recovered(TASK, on_trial(), 1), e.DriveStarted(OLD, on_trial()))
    assert state.phase is Phase.SWITCHING and actions == [e.Switch(NEW)]


def test_killed_while_switching_asks_again_at_the_first_tick() -> None:
    assert run(recovered(TASK, on_trial(), 1), e.Tick())[1] == [e.Switch(NEW)]


def test_killed_while_watching_opens_a_new_window_by_the_stored_policy() -> None:
    state, actions = run(recovered(TASK, on_trial(), 1), e.DriveStarted(NEW, on_trial()), now_s=100.0)
    assert state.phase is Phase.WATCHING and not actions
    assert state.window is not None and (state.window.opened_s, state.window.length_s) == (100.0, 30.0)


def test_killed_after_confirming_is_idle() -> None:
    state, actions = run(recovered(TASK, kept(), 1), e.DriveStarted(NEW, kept()), wish(NEW))
    assert state.phase is Phase.IDLE and not actions


def test_killed_after_taking_back_returns_drive_to_the_confirmed_version() -> None:
    state, actions = run(recovered(TASK, taken_back(), 1), e.DriveStarted(NEW, taken_back()))
    assert actions == [e.Switch(OLD)]
    state, actions = run(state, e.Switched(OLD, ok=True), wish(NEW))
    assert (state.phase, state.running, state.error) == (Phase.ROLLED_BACK, OLD, BROKEN) and not actions


@pytest.mark.parametrize("phase", [Phase.SWITCHING, Phase.WATCHING, Phase.CONFIRMING])
def test_drive_that_gave_the_trial_up_is_believed(phase: Phase) -> None:
    state, actions = run(at(phase), e.DriveStarted(OLD, taken_back()))
    assert (state.phase, state.running, state.error) == (Phase.ROLLED_BACK, OLD, BROKEN) and not actions


def test_drive_that_fell_back_to_an_older_version_gets_the_wanted_one_again() -> None:
    state, _ = run(idle(confirmed=NEW, running=NEW), wish(NEW))
    state, _ = run(state, e.DriveStarted(OLD, SlotState(confirmed=OLD)))
    assert state.phase is Phase.FETCHING and state.target == NEW


def test_samples_of_the_version_before_do_not_count_in_the_trial() -> None:
    state, actions = run(at(Phase.WATCHING), e.Health(Sample(OLD, decisions=0, errors=1000)))
    assert state.phase is Phase.WATCHING and not actions


@pytest.mark.parametrize("phase", list(Phase))
def test_every_phase_takes_every_event(phase: Phase) -> None:
    state = at(phase)
    n = state.attempt
    events: list[e.Event] = [
        *(wish(release, version) for release in (OLD, NEW, NEWER) for version in (1, 2)),
        *(kind(n) for kind in (e.FetchDone, e.TestPassed, e.Installed, e.TrialBegun)),
        *(e.Waits("x"), e.Start(), e.Keep(), e.CompanionFailed("other", BROKEN), e.CompanionFailed("other", None)),
        *(e.Stored(n, stored) for stored in (on_trial(), kept(), taken_back())),
        *(e.DriveStarted(run_, stored) for run_ in (OLD, NEW, None) for stored in (on_trial(), kept(), taken_back())),
        *(e.Switched(release, ok) for release in (OLD, NEW) for ok in (True, False)),
        e.Progress(n, 1, 2),
        e.Failed(n, BROKEN),
        e.Refused(n, BROKEN),
        e.Health(Sample(NEW)),
        e.Tick(),
    ]
    for event in events:
        after, _ = step(state, event, 1e6)
        assert after.phase in Phase
        if phase in (*phases.ENDED, Phase.WAITING, *phases.PREPARING, Phase.READY) and not isinstance(
            event, e.DriveStarted | e.Switched
        ):
            assert after.running == OLD, "nothing that runs is touched before a trial"


# Ready.


def test_what_is_ready_waits_for_consent_and_is_remembered() -> None:
    state, actions = run(idle(), wish(NEW, policy=ASKING))
    n = state.attempt
    state, actions = run(state, e.FetchDone(n), e.TestPassed(n), e.Installed(n))
    assert (state.phase.reported, state.waits_for, state.running) == ("ready", "consent", OLD)
    assert actions[-1] == e.RememberReady(SLOT, Ready(ref=NEW, policy=ASKING, version=1))
    assert run(state, e.Tick(), now_s=1e6) == (state, []), "it waits as long as it takes, and tells the store once"
    state, actions = run(state, e.Tick(), facts=Facts(consents={(SLOT, NEW): True}))
    assert state.phase is Phase.STARTING and actions == [e.BeginTrials({SLOT: Trial(NEW, ASKING)})]
    assert run(state, e.TrialBegun(n))[1] == [e.Switch(NEW)], "the trial takes the place of what was remembered"


def test_consent_that_was_refused_is_final() -> None:
    state, actions = run(at(Phase.READY), e.Tick(), facts=Facts(consents={(SLOT, NEW): False}))
    assert state.phase is Phase.REFUSED and state.error is not None and state.error.code == "consent-refused"
    assert actions == [e.RecordRefused(NEW, state.error), e.RememberReady(SLOT, None)]
    assert run(state, wish(NEW, version=2, policy=ASKING))[0].phase is Phase.REFUSED


def test_consent_to_one_release_is_none_to_another() -> None:
    facts = Facts(consents={(SLOT, NEWER): True, ("other", NEW): True, (SLOT, OLD): False})
    assert run(at(Phase.READY), e.Tick(), facts=facts)[0].phase is Phase.READY


def test_what_was_ready_waits_on_after_a_restart_without_a_network() -> None:
    stored = SlotState(confirmed=OLD, ready=Ready(ref=NEW, policy=ASKING, version=7))
    state, actions = run(recovered(TASK, stored, 7), e.DriveStarted(OLD, stored))
    assert (state.phase, state.target, state.waits_for) == (Phase.READY, NEW, "consent") and not actions
    state, actions = run(state, e.Tick(), facts=Facts(consents={(SLOT, NEW): True}))
    assert actions == [e.BeginTrials({SLOT: Trial(NEW, ASKING)})]


def test_what_was_ready_is_forgotten_where_a_newer_wish_was_accepted_since() -> None:
    stored = SlotState(confirmed=OLD, ready=Ready(ref=NEW, policy=POLICY, version=7))
    state, actions = run(recovered(TASK, stored, 8), e.Tick())
    assert state.phase is Phase.IDLE and actions == [e.RememberReady(SLOT, None)]


def test_a_newer_policy_counts_for_what_is_ready() -> None:
    state, actions = run(at(Phase.READY), wish(NEW, version=2))
    assert state.phase is Phase.STARTING and actions == [begins(NEW)]


def test_a_store_that_cannot_begin_the_trial_makes_it_wait() -> None:
    before = at(Phase.STARTING)
    state, actions = run(before, e.Failed(before.attempt, BROKEN))
    assert (state.phase, state.running, state.error) == (Phase.WAITING, OLD, BROKEN) and not actions


@pytest.mark.parametrize("version", [1, 2, 30])
def test_a_rolled_back_release_comes_again_only_as_a_new_release(version: int) -> None:
    """`roadloop models publish --again` is how a person says so: the same content under another number."""
    back = at(Phase.ROLLED_BACK)
    assert run(back, wish(NEW, version=version))[0].phase is Phase.ROLLED_BACK
    again = ReleaseRef(task=TASK, release=9, version=NEW.version, manifest_sha256=NEW.manifest_sha256)
    assert run(back, wish(again, version=version))[0].phase is Phase.FETCHING
