"""Counting: lines, tracks and crossings over detections that are written down by hand or drawn by hypothesis."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_models.counting.counter import Counter, Crossing
from roadloop_models.counting.lines import MIDDLE, Line
from roadloop_models.counting.tracker import CONFIRM_FRAMES, MAX_MISSED, Tracker, likeness
from roadloop_models.detect import NOTHING, Detections

WIDTH, HEIGHT = 400, 200
UPRIGHT = Line("upright", (0.5, 0.0), (0.5, 1.0))


def boxes(*centres: tuple[float, float], size: float = 20.0, score: float = 0.9, class_id: int = 0) -> Detections:
    """One square box around each centre."""
    half = size / 2
    corners = [(x - half, y - half, x + half, y + half) for x, y in centres]
    return Detections(corners, [score] * len(centres), [class_id] * len(centres))


def count(counter: Counter, frames: list[Detections], first: int = 0) -> list[Crossing]:
    told = []
    for number, found in enumerate(frames, first):
        told += counter.step(number, found, HEIGHT, WIDTH)
    return told


def walk(start: tuple[float, float], step: tuple[float, float], frames: int) -> list[tuple[float, float]]:
    return [(start[0] + step[0] * index, start[1] + step[1] * index) for index in range(frames)]


@pytest.mark.parametrize(
    ("line", "start", "step", "direction"),
    [
        (MIDDLE, (200, 20), (0, 6), "down"),
        (MIDDLE, (200, 180), (0, -6), "up"),
        (UPRIGHT, (50, 100), (8, 0), "right"),
        (UPRIGHT, (350, 100), (-8, 0), "left"),
        (Line("steep", (0.4, 0.0), (0.6, 1.0)), (50, 100), (8, 1), "right"),
        (Line("flat, drawn from right to left", (1.0, 0.4), (0.0, 0.6)), (200, 20), (0, 6), "down"),
    ],
)
def test_a_vehicle_that_passes_is_counted_once_with_its_direction(
    line: Line, start: tuple[float, float], step: tuple[float, float], direction: str
) -> None:
    path = walk(start, step, 30)
    (crossing,) = count(Counter([line]), [boxes(centre) for centre in path])
    placed = line.placed(WIDTH, HEIGHT)
    sides = [placed.distance(centre) > 0 for centre in path]
    first_beyond = next(number for number, side in enumerate(sides) if side != sides[0])
    assert abs(crossing.frame - first_beyond) <= 1
    assert (crossing.line, crossing.direction, crossing.track) == (line.name, direction, 1)
    assert crossing.confidence == pytest.approx(0.9, abs=0.01)


def test_a_line_ends_where_it_ends() -> None:
    left_half = Line("left", (0.0, 0.5), (0.5, 0.5))
    assert count(Counter([left_half]), [boxes(centre) for centre in walk((300, 20), (0, 6), 30)]) == []
    assert len(count(Counter([left_half]), [boxes(centre) for centre in walk((100, 20), (0, 6), 30)])) == 1


def test_trembling_on_the_line_is_no_crossing_and_passing_then_is_one() -> None:
    generator = np.random.default_rng(4)
    standing = [boxes((200, 100 + jitter), size=60) for jitter in generator.normal(0, 1.2, 200)]
    leaving = [boxes(centre, size=60) for centre in walk((200, 100), (0, 5), 15)]
    counter = Counter()
    assert count(counter, standing) == []
    told = count(counter, leaving, first=200)
    assert len(told) <= 1 and all(crossing.direction == "down" for crossing in told)


def test_a_vehicle_that_turns_back_over_the_line_is_counted_once() -> None:
    path = walk((200, 40), (0, 6), 20) + walk((200, 154), (0, -6), 20)
    assert len(count(Counter(), [boxes(centre) for centre in path])) == 1


def test_a_crossing_during_which_nothing_was_found_is_put_where_it_must_have_been() -> None:
    frames = [boxes(centre) for centre in walk((200, 20), (0, 6), 30)]
    for number in range(11, 17):
        frames[number] = NOTHING
    (crossing,) = count(Counter(), frames)
    assert abs(crossing.frame - 14) <= 1


def test_two_vehicles_side_by_side_in_both_directions_are_two() -> None:
    up, down = walk((150, 190), (0, -6), 30), walk((185, 10), (0, 6), 30)
    told = count(Counter(), [boxes(*pair) for pair in zip(up, down, strict=True)])
    assert sorted(crossing.direction for crossing in told) == ["down", "up"]
    assert len({crossing.track for crossing in told}) == 2


def test_what_flickers_is_no_track() -> None:
    frames = [boxes((200, 60 + 6 * n)) if n % CONFIRM_FRAMES != CONFIRM_FRAMES - 1 else NOTHING for n in range(20)]
    assert count(Counter(), frames) == []


def test_low_scores_keep_a_track_but_begin_none() -> None:
    path = walk((200, 20), (0, 6), 30)
    assert count(Counter(), [boxes(centre, score=0.3) for centre in path]) == []
    sinking = [boxes(centre, score=0.9 if number < 4 else 0.3) for number, centre in enumerate(path)]
    assert len(count(Counter(), sinking)) == 1


def test_a_vehicle_hidden_for_a_while_stays_itself_and_after_longer_does_not() -> None:
    for hidden, number in ((MAX_MISSED, 1), (MAX_MISSED + 1, 2)):
        tracker = Tracker(min_score=0.4)
        path = walk((20, 100), (5, 0), 20 + hidden)
        for frame, centre in enumerate(path):
            tracker.update(frame, NOTHING if 8 <= frame < 8 + hidden else boxes(centre))
        assert [track.number for track in tracker.tracks] == [number], hidden


def test_a_frame_of_another_size_or_an_earlier_one_begins_anew() -> None:
    path = walk((200, 60), (0, 6), 20)
    for height, first in ((HEIGHT * 2, 10), (HEIGHT, 0)):
        counter = Counter()
        for number, centre in enumerate(path[:6]):
            counter.step(number, boxes(centre), HEIGHT, WIDTH)
        assert counter.tracks
        counter.step(first, boxes(path[6]), height, WIDTH)
        assert not counter.tracks


def test_only_wanted_classes_are_counted_and_the_vote_names_the_class() -> None:
    found = boxes((10, 10), (50, 50))
    mixed = Detections(found.boxes, found.scores, [2, 7]).of_classes({7})
    assert list(mixed.classes) == [7] and list(mixed.boxes) == [found.boxes[1]]
    path = walk((200, 20), (0, 6), 30)
    (crossing,) = count(Counter(), [boxes(c, class_id=5 if n % 4 else 3) for n, c in enumerate(path)])
    assert crossing.class_id == 5


def test_a_line_without_length_or_outside_the_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="has no side"):
        Line("dot", (0.5, 0.5), (0.5, 0.5))
    with pytest.raises(ValueError, match="shares of the picture"):
        Line("far", (0.0, 0.5), (1.5, 0.5))


def test_likeness_is_overlap_less_distance() -> None:
    here, near, far = (boxes((x, 50)).corners for x in (50, 60, 300))
    assert likeness(here, here)[0, 0] == pytest.approx(1.0)
    assert likeness(here, near)[0, 0] == pytest.approx(1 / 3 - 100 / (30**2 + 20**2))
    assert -1.0 < likeness(here, far)[0, 0] < likeness(here, near)[0, 0]


_PATHS = st.lists(
    st.tuples(st.floats(-5, 5), st.floats(20, 380), st.booleans()),
    min_size=0,
    max_size=4,
)


@given(_PATHS, st.integers(0, 2**16))
def test_whatever_moves_each_track_crosses_each_line_at_most_once(
    paths: list[tuple[float, float, bool]], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    counter = Counter([MIDDLE, UPRIGHT])
    told = []
    for number in range(40):
        centres = [(x + drift * number, 10 + 4.7 * number if down else 190 - 4.7 * number) for drift, x, down in paths]
        seen = [centre for centre in centres if generator.random() < 0.8]
        told += counter.step(number, boxes(*seen), HEIGHT, WIDTH)
        assert all(crossing.frame <= number for crossing in told)
    assert len({(crossing.track, crossing.line) for crossing in told}) == len(told)
    assert all(math.isfinite(crossing.confidence) for crossing in told)
