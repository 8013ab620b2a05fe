"""When the director is asked, what time a vehicle goes by, and how far back it goes: decisions without I/O."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_agent.update.acceptance import check_counter
from roadloop_agent.update.check import LEAST_S, PERIOD_S, RETRY_S, SPREAD_S, CheckSchedule, DirectorCheck
from roadloop_agent.update.director import Assignment
from roadloop_agent.update.refused import MetadataError
from roadloop_agent.update.state import SlotState
from roadloop_agent.update.trusted_time import BUILT, TrustedTime
from roadloop_models.contract.messages import ErrorInfo, ReleaseRef

EPOCH = datetime.fromtimestamp(0, UTC)


def test_nothing_is_asked_before_there_is_a_connection() -> None:
    assert not CheckSchedule(lambda: 0.0).take(1e9)


def test_a_connection_is_followed_by_one_question_within_seconds() -> None:
    schedule = CheckSchedule(lambda: 0.5)
    schedule.soon(100.0)
    assert not schedule.take(100.0)
    assert schedule.take(100.0 + SPREAD_S)
    assert not schedule.take(100.0 + SPREAD_S)


@given(st.lists(st.floats(0.0, 300.0), max_size=60), st.floats(0.0, 0.999))
def test_however_often_connections_come_it_is_at_most_once_a_minute(gaps: list[float], random: float) -> None:
    schedule = CheckSchedule(lambda: random)
    now_s, asked = 0.0, []
    for gap in gaps:
        now_s += gap
        schedule.soon(now_s)
        if schedule.take(now_s):
            asked.append(now_s)
    assert all(after - before >= LEAST_S for before, after in pairwise(asked))


@given(st.floats(0.0, 0.999))
def test_without_any_event_it_is_asked_every_few_hours(random: float) -> None:
    schedule = CheckSchedule(lambda: random)
    schedule.soon(0.0)
    assert schedule.take(SPREAD_S)
    assert not schedule.take(SPREAD_S + 0.74 * PERIOD_S)
    assert schedule.take(SPREAD_S + 1.26 * PERIOD_S)


def test_what_is_wrong_is_told_with_the_last_version_that_held() -> None:
    told: list[tuple[int, ErrorInfo | None]] = []
    answers: list[int | MetadataError] = [7, MetadataError("frozen")]

    def look() -> int:
        answer = answers.pop(0)
        if isinstance(answer, MetadataError):
            raise answer
        return answer

    check = DirectorCheck(
        look,
        lambda: Assignment(8, 1, {}),
        lambda *said: told.append(said),
        CheckSchedule(lambda: 0.0),
        mono=lambda: 0.0,
        version=6,
    )
    check.run()
    check.run()
    assert check.assignment().version == 8
    assert told == [(6, None), (7, None), (7, ErrorInfo(code="trust-refused", detail="frozen")), (8, None)]


def test_a_fault_of_any_kind_is_told_and_tried_again_and_ends_no_thread() -> None:
    told: list[tuple[int, ErrorInfo | None]] = []
    now_s = [100.0]

    def look() -> int:
        raise OSError("no memory for another process")

    check = DirectorCheck(
        look,
        lambda: Assignment(8, 1, {}),
        lambda *said: told.append(said),
        CheckSchedule(lambda: 0.0),
        mono=lambda: now_s[0],
    )
    check.soon()
    assert check.is_due()
    check.run()
    error = told[-1][1]
    assert error is not None and "no memory" in error.detail
    assert not check.is_due()
    now_s[0] += RETRY_S
    assert check.is_due()


def test_time_is_the_latest_of_all_that_is_known() -> None:
    clock, mono = [EPOCH], [0.0]
    time = TrustedTime(lambda: clock[0], lambda: mono[0])
    floor = BUILT + timedelta(days=30)
    assert time.now() == BUILT and time.now(floor) == floor
    time.told(floor + timedelta(days=1))
    mono[0] = 60.0
    assert time.now(floor) == floor + timedelta(days=1, seconds=60)
    clock[0] = floor + timedelta(days=2)
    assert time.now(floor) == clock[0]


def test_the_director_is_asked_once_a_start_and_while_the_clock_is_wrong() -> None:
    clock = [BUILT + timedelta(days=1)]
    time = TrustedTime(lambda: clock[0], lambda: 0.0)
    assert time.must_ask(EPOCH)
    time.told(clock[0])
    assert not time.must_ask(EPOCH)
    assert time.must_ask(clock[0] + timedelta(seconds=1)), "it is below what it was"
    clock[0] = EPOCH
    assert time.must_ask(EPOCH)


def ref(release: int) -> ReleaseRef:
    return ReleaseRef(task="traffic-sign", release=release, version="v", manifest_sha256=f"{release:064x}")


@pytest.mark.parametrize(
    ("confirmed", "previous", "trial", "taken", "refused"),
    [
        (3, None, None, [3, 4, 9], [1, 2]),
        (4, 3, None, [3, 4, 5], [1, 2]),
        (3, 4, None, [3, 4, 5], [1, 2]),  # gone back once: no further
        (3, 2, 9, [2, 3, 4, 9], [1]),  # what is on trial has proved nothing
    ],
)
def test_a_slot_goes_back_to_what_it_still_has(
    confirmed: int, previous: int | None, trial: int | None, taken: list[int], refused: list[int]
) -> None:
    state = SlotState(
        confirmed=ref(confirmed),
        previous=None if previous is None else ref(previous),
        trial=None if trial is None else ref(trial),
    )
    for release in taken:
        check_counter(ref(release), state)
    for release in refused:
        with pytest.raises(MetadataError, match="was confirmed before"):
            check_counter(ref(release), state)


@given(st.lists(st.integers(1, 8), max_size=40))
def test_whatever_is_chosen_a_slot_never_gets_below_what_it_had(choices: list[int]) -> None:
    state = SlotState(confirmed=ref(4), previous=ref(3))
    for release in choices:
        try:
            check_counter(ref(release), state)
        except MetadataError:
            continue
        if release != state.confirmed.release:
            state = SlotState(confirmed=ref(release), previous=state.confirmed)
        assert state.confirmed.release >= 3
