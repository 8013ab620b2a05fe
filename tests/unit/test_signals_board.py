"""The board: what is known of each signal at each moment, and a time that goes on whatever the clocks do."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_agent.drive.sources.signals.board import Board, Limits, Sampler, Timeline
from roadloop_models.signals import VSS, Quality

SPEED = Limits("Vehicle.Speed", low=0.0, high=70.0, stale_s=1.0)
STUCK = Limits("Vehicle.OBD.EngineSpeed", low=0.0, high=8000.0, stale_s=9.0, frozen_s=3.0, rests_at=0.0)
TEN_YEARS_S = 10 * 365.25 * 86_400


def quality(board: Board, t_s: float, index: int = 0) -> Quality:
    frame = board.frame(t_s)
    path = board.limits[index].path
    assert (frame.quality[path] is Quality.OK) == (not math.isnan(frame.values[path]))
    return frame.quality[path]


def test_a_value_is_good_until_it_is_stale() -> None:
    board = Board([SPEED])
    assert quality(board, 0.0) is Quality.NEVER
    board.put(1.0, [(0, 12.5)])
    assert board.frame(1.0).values == {"Vehicle.Speed": 12.5}
    assert quality(board, 2.0) is Quality.OK
    assert quality(board, 2.01) is Quality.STALE
    board.put(2.5, [(0, 12.5)])
    assert quality(board, 3.5) is Quality.OK


@pytest.mark.parametrize("value", [-0.1, 70.1, math.nan, math.inf, -math.inf])
def test_what_cannot_be_is_marked_and_never_given(value: float) -> None:
    board = Board([SPEED])
    board.put(0.0, [(0, value)])
    assert quality(board, 0.5) is Quality.OUT_OF_RANGE
    board.put(0.6, [(0, 3.0)])
    assert quality(board, 0.7) is Quality.OK
    assert board.tallies[0].frames[Quality.OUT_OF_RANGE] == 1


def test_a_value_that_stays_the_same_is_frozen_unless_it_rests() -> None:
    board = Board([SPEED, STUCK])
    for t_s in range(5):
        board.put(float(t_s), [(1, 900.0)])
    assert quality(board, 3.0, 1) is Quality.OK
    assert quality(board, 4.0, 1) is Quality.FROZEN
    board.put(4.5, [(1, 901.0)])
    assert quality(board, 5.0, 1) is Quality.OK
    for t_s in range(5, 12):
        board.put(float(t_s), [(1, 0.0)])
    assert quality(board, 12.0, 1) is Quality.OK


def test_after_a_jump_nothing_is_believed_before_it_is_seen_again() -> None:
    board = Board([SPEED])
    board.put(1.0, [(0, 12.5)])
    board.outdate([0])
    assert quality(board, 1.0) is Quality.STALE
    board.put(1.1, [(0, 12.5)])
    assert quality(board, 1.1) is Quality.OK


def test_limits_come_from_the_catalogue() -> None:
    for path, spec in VSS.items():
        assert Limits.of_catalogue(path) == Limits(path, spec.low, spec.high, spec.stale_s)


def test_the_tally_says_what_was_seen() -> None:
    board = Board([SPEED])
    board.put(0.0, [(0, 5.0)])
    board.put(0.1, [(0, 9.0)])
    board.put(0.2, [(0, math.nan)])
    tally = board.tallies[0]
    assert (tally.values, tally.low, tally.high) == (3, 5.0, 9.0)


@given(
    rate_hz=st.sampled_from([0.5, 2.0, 10.0, 100.0]),
    steps_s=st.lists(st.floats(0, 3, allow_nan=False), min_size=1, max_size=30),
)
def test_frames_are_evenly_spaced_and_none_is_left_out(rate_hz: float, steps_s: list[float]) -> None:
    sampler = Sampler(rate_hz)
    t_s, moments = 100.0, []
    for step_s in steps_s:
        t_s += step_s
        due = sampler.due(t_s)
        assert all(moment < t_s for moment in due)
        moments += due
    first_s = 100.0 + steps_s[0]
    assert moments == [first_s + number / rate_hz for number in range(len(moments))]
    assert first_s + len(moments) / rate_hz >= t_s


@given(st.lists(st.floats(-1e12, 1e12, allow_nan=False), min_size=1, max_size=50))
def test_time_never_goes_back_and_never_leaps(stamps: list[float]) -> None:
    timeline = Timeline(max_gap_s=60.0)
    times = [timeline.continued(stamp)[0] for stamp in stamps]
    steps = [after - before for before, after in pairwise(times)]
    assert all(-1e-3 <= step <= 60.0 + 1e-3 for step in steps)


@pytest.mark.parametrize("jump_s", [TEN_YEARS_S, -TEN_YEARS_S])
def test_a_clock_that_jumps_ten_years_is_counted_and_changes_nothing(jump_s: float) -> None:
    timeline = Timeline(max_gap_s=60.0)
    assert timeline.continued(1000.0) == (1000.0, False)
    assert timeline.continued(1000.5) == (1000.5, False)
    t_s, jumped = timeline.continued(1000.6 + jump_s)
    assert t_s == pytest.approx(1000.5, abs=1e-3) and jumped
    t_s, jumped = timeline.continued(1000.7 + jump_s)
    assert t_s == pytest.approx(1000.6, abs=1e-3) and not jumped
    t_s, jumped = timeline.continued(1000.8)
    assert t_s == pytest.approx(1000.6, abs=1e-3) and jumped
    assert timeline.jumps == 2


def test_a_little_disorder_is_no_jump() -> None:
    timeline = Timeline(max_gap_s=60.0)
    assert [timeline.continued(stamp)[0] for stamp in (5.0, 4.5, 5.0, 5.25)] == [5.0, 5.0, 5.0, 5.25]
    assert timeline.jumps == 0
