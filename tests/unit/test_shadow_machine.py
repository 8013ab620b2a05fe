"""The candidate in a slot's shadow: what brings it there, what ends it, and that nothing is counted twice."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_agent.update.shadow import (
    ASK_AGAIN_S,
    BACKOFF_FIRST_S,
    Action,
    Ask,
    DriveStarted,
    Event,
    Failed,
    Memory,
    Phase,
    Prepare,
    Prepared,
    Refused,
    Said,
    SlotShadow,
    Tick,
    Wanted,
    recovered,
    step,
)
from roadloop_models.contract.messages import ErrorInfo, ReleaseRef, ShadowPolicy, ShadowReport

TASK = "traffic-sign"
POLICY = ShadowPolicy(max_cpu_share=0.1)
TROUBLE = ErrorInfo(code="retry-later", detail="no network")


def ref(release: int, task: str = TASK) -> ReleaseRef:
    return ReleaseRef(task=task, release=release, version=f"v{release}", manifest_sha256=f"{release:064x}")


INCUMBENT, CANDIDATE, OTHER = ref(1), ref(2), ref(3)


def said(frames: int, run: str = "a", candidate: ReleaseRef = CANDIDATE, incumbent: ReleaseRef = INCUMBENT) -> Said:
    return Said(incumbent, run, ShadowReport(ref=candidate, state="running", frames=frames))


class Slot:
    """A machine, its clock, and what it asked for last."""

    def __init__(self, state: SlotShadow | None = None) -> None:
        self.state = state or SlotShadow(TASK)
        self.now_s = 0.0
        self.actions: tuple[Action, ...] = ()

    def take(self, event: Event) -> "Slot":
        self.state, self.actions = step(self.state, event, self.now_s)
        return self

    def tick(self, *taken: ReleaseRef) -> "Slot":
        return self.take(Tick(taken or (INCUMBENT,)))

    @property
    def frames(self) -> int:
        assert self.state.seen is not None
        return self.state.seen.frames


def offered() -> Slot:
    slot = Slot().take(Wanted(CANDIDATE, POLICY)).tick()
    return slot.take(Prepared(slot.state.attempt))


def test_what_is_wanted_is_prepared_and_then_drive_is_asked() -> None:
    slot = Slot().take(Wanted(CANDIDATE, POLICY))
    assert not slot.actions and slot.state.report is not None and slot.state.report.state == "loading"
    assert slot.tick().actions == (Prepare(slot.state.attempt, CANDIDATE),)
    assert slot.take(Prepared(slot.state.attempt)).actions == (Ask(CANDIDATE, 0.1),)
    slot.take(said(7))
    assert slot.state.report is not None and (slot.state.report.state, slot.state.report.frames) == ("running", 7)


def test_nobody_is_there_where_nobody_is_wanted() -> None:
    slot = Slot().take(Wanted(None, POLICY)).tick()
    assert slot.actions == () and slot.state.report is None


def test_drive_is_asked_again_while_it_says_nothing_and_left_alone_while_it_does() -> None:
    slot = offered()
    slot.now_s = ASK_AGAIN_S - 1.0
    assert slot.tick().actions == ()
    slot.take(said(1))
    slot.now_s = ASK_AGAIN_S + 1.0
    assert slot.tick().actions == ()
    slot.now_s = 3 * ASK_AGAIN_S
    assert slot.tick().actions == (Ask(CANDIDATE, 0.1),)


def test_a_drive_that_has_started_is_asked_at_once() -> None:
    slot = offered().take(said(1))
    assert slot.take(DriveStarted()).tick().actions == (Ask(CANDIDATE, 0.1),)


def test_another_budget_is_told_to_drive() -> None:
    slot = offered().take(said(5)).take(Wanted(CANDIDATE, ShadowPolicy(max_cpu_share=0.5))).tick()
    assert slot.actions == (Ask(CANDIDATE, 0.5),) and slot.frames == 5


def test_what_cannot_be_prepared_now_is_tried_again_later_and_said() -> None:
    slot = Slot().take(Wanted(CANDIDATE, POLICY)).tick()
    slot.take(Failed(slot.state.attempt, TROUBLE, jitter=1.0))
    assert slot.state.report is not None and slot.state.report.error == TROUBLE
    assert slot.tick().actions == ()
    slot.now_s = BACKOFF_FIRST_S
    assert slot.tick().actions == (Prepare(slot.state.attempt, CANDIDATE),)
    slot.take(Failed(slot.state.attempt, TROUBLE, jitter=1.0))
    assert slot.state.due_s == BACKOFF_FIRST_S + 2 * BACKOFF_FIRST_S


@pytest.mark.parametrize("by_drive", [False, True])
def test_a_candidate_that_is_refused_stays_out_until_a_person_asks_again(by_drive: bool) -> None:
    bad = ErrorInfo(code="golden-mismatch", detail="row 3 differs")
    slot = offered().take(said(3)) if by_drive else Slot().take(Wanted(CANDIDATE, POLICY)).tick()
    if by_drive:
        refused = msgspec.structs.replace(said(4).report, state="refused", error=bad)
        slot.take(Said(INCUMBENT, "a", refused))
        assert slot.actions == (Ask(None),) and slot.frames == 4
    else:
        slot.take(Refused(slot.state.attempt, bad))
    report = slot.state.report
    assert report is not None and (report.state, report.error) == ("refused", bad)
    slot.now_s = 1e6
    assert slot.take(Wanted(CANDIDATE, POLICY)).tick().actions == ()
    again = Slot(recovered(TASK, slot.state.memory))
    assert again.tick().actions == () and again.state.report is not None and again.state.report.error == bad
    again.take(Wanted(None, POLICY)).take(Wanted(CANDIDATE, POLICY)).tick()
    assert again.actions == (Prepare(again.state.attempt, CANDIDATE),)


def test_a_release_of_another_task_is_refused_without_fetching_it() -> None:
    slot = Slot().take(Wanted(ref(2, "traffic-speed"), POLICY))
    assert slot.state.phase is Phase.REFUSED and slot.tick().actions == ()


def test_a_candidate_that_an_update_is_about_leaves_the_shadow_and_its_sums_stay() -> None:
    slot = offered().take(said(60)).tick(INCUMBENT, CANDIDATE)
    assert slot.actions == (Ask(None),) and slot.frames == 60
    assert slot.state.report is not None and slot.state.report.state == "paused"
    slot.now_s = 100.0
    assert slot.tick(CANDIDATE).actions == ()
    slot.take(Wanted(None, POLICY))
    assert slot.state.report is None and slot.frames == 60


def test_it_comes_back_where_the_update_lets_go_of_it() -> None:
    slot = offered().take(said(60)).tick(INCUMBENT, CANDIDATE)
    slot.tick(INCUMBENT).tick(INCUMBENT)
    assert slot.actions == (Prepare(slot.state.attempt, CANDIDATE),)


def test_an_answer_to_what_was_given_up_changes_nothing() -> None:
    slot = Slot().take(Wanted(CANDIDATE, POLICY)).tick()
    late = Prepared(slot.state.attempt)
    slot.take(Wanted(OTHER, POLICY)).take(late)
    assert slot.actions == () and slot.state.phase is Phase.WAITING


def test_another_candidate_begins_with_nothing() -> None:
    slot = offered().take(said(60)).take(Wanted(OTHER, POLICY))
    assert slot.actions == (Ask(None),) and slot.state.seen is None
    slot.take(said(61))
    assert slot.state.seen is None, "the last word about the one before"


def test_beside_another_incumbent_counting_begins_anew() -> None:
    slot = offered().take(said(60)).take(said(2, run="b", incumbent=OTHER))
    assert slot.frames == 2


def test_drive_is_told_where_it_runs_a_candidate_that_nobody_wants() -> None:
    slot = offered().take(said(5)).take(Wanted(None, POLICY)).take(said(9))
    assert slot.actions == (Ask(None),) and slot.frames == 9, "its last word counts"


def test_after_a_restart_it_goes_on_where_it_was() -> None:
    before = offered().take(said(60))
    slot = Slot(recovered(TASK, msgspec.json.decode(msgspec.json.encode(before.state.memory), type=Memory)))
    slot.tick()
    assert slot.actions == (Prepare(slot.state.attempt, CANDIDATE),)
    slot.take(Prepared(slot.state.attempt))
    assert slot.state.report is not None and (slot.state.report.state, slot.state.report.frames) == ("loading", 60)
    slot.take(said(65))
    assert slot.frames == 65, "the same run of drive goes on"
    slot.take(said(5, run="b"))
    assert slot.frames == 70, "drive was started again"


Run = st.lists(st.integers(0, 1000), min_size=1, max_size=5).map(sorted)


@given(st.lists(Run, min_size=1, max_size=6), st.data())
def test_nothing_is_counted_twice_whatever_restarts(runs: list[list[int]], data: st.DataObject) -> None:
    """Every report may come several times, and link may be started again anywhere; drive's runs only add up."""
    slot = offered()
    for number, run in enumerate(runs):
        for frames in run:
            for _ in range(data.draw(st.integers(1, 3))):
                slot.take(said(frames, run=str(number)))
            if data.draw(st.booleans()):
                slot = Slot(recovered(TASK, slot.state.memory)).tick()
                slot.take(Prepared(slot.state.attempt))
    assert slot.frames == sum(run[-1] for run in runs)
