"""What is counted as a frame that a switch cost."""

import pytest

from tests.bench.switch import Tally, missing_between


def test_frames_in_turn_are_none_missing() -> None:
    assert missing_between([0, 1, 2, 3]) == [0, 0, 0]


def test_what_lies_between_two_numbers_is_missing() -> None:
    assert missing_between([0, 1, 4, 5]) == [0, 2, 0]


@pytest.mark.parametrize(
    "items",
    [
        [0, 1, 2, 3, 0, 1, 2],
        pytest.param([0, 1, 2, 3, 1, 2, 3], id="the first frame came too soon"),
        pytest.param([0, 1, 2, 3, 0, 2, 3], id="the second frame came too soon"),
        pytest.param([1, 2, 3, 1, 2, 3, 1], id="the first frame came too soon each time"),
        pytest.param([0, 1, 2, 3, 1], id="nothing was decided about after it began again"),
    ],
)
def test_a_recording_that_begins_again_misses_nothing(items: list[int]) -> None:
    assert not any(missing_between(items))


def test_one_frame_alone_is_ahead_of_a_recording_that_begins_again() -> None:
    assert missing_between([0, 1, 2, 3, 4, 2, 3]) == [0, 0, 0, 0, 1, 0]
    assert missing_between([0, 1, 2, 3, 4, 1, 3]) == [0, 0, 0, 0, 0, 1]
    assert missing_between([0, 1, 2, 3, 4, 0, 1, 3]) == [0, 0, 0, 0, 0, 0, 1]


def test_frames_are_missing_in_the_span_that_their_gap_reaches_into() -> None:
    tally = Tally("stream", items=[0, 1, 3, 4, 6], times_ms=[0, 10, 30, 40, 60])
    assert tally.missing([(0, 60)]) == 2
    assert tally.missing([(25, 35)]) == 1
    assert tally.missing([(31, 39)]) == 0
