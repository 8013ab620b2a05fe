"""Overload and heat: who gives way, in which order, and how rates come back."""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_agent.drive.governor import (
    CALM_PERIODS,
    CALM_PERIODS_MAX,
    FLOOR,
    PAUSED,
    STRIKES,
    Band,
    Governed,
    Load,
    govern,
    heat_levels,
    share,
)

LATE, CALM = (10, 5), (10, 0)

names = st.sampled_from("abcd")
priorities = st.dictionaries(names, st.integers(0, 3), min_size=1)
frames = st.tuples(st.integers(0, 20), st.floats(0, 1)).map(lambda pair: (pair[0], round(pair[0] * pair[1])))
periods = st.lists(st.tuples(st.fixed_dictionaries(dict.fromkeys("abcd", frames)), st.sampled_from(Band)))


def loads(priorities: Mapping[str, int], counts: Mapping[str, tuple[int, int]]) -> dict[str, Load]:
    return {name: Load(priority, *counts.get(name, CALM)) for name, priority in priorities.items()}


@given(priorities, periods)
def test_no_slot_loses_rate_while_one_of_lower_priority_has_any_left_to_lose(
    priorities: dict[str, int], periods: list[tuple[dict[str, tuple[int, int]], Band]]
) -> None:
    state = Governed()
    for counts, band in periods:
        state = govern(state, loads(priorities, counts), band)
        for name, level in state.levels.items():
            assert 0 <= level <= PAUSED
            if level:
                assert all(
                    state.levels[other] >= FLOOR for other, lower in priorities.items() if lower < priorities[name]
                )


@given(priorities, periods)
def test_heat_is_obeyed_at_once_and_overload_alone_pauses_nobody(
    priorities: dict[str, int], periods: list[tuple[dict[str, tuple[int, int]], Band]]
) -> None:
    state, without_heat = Governed(), Governed()
    for counts, band in periods:
        state = govern(state, loads(priorities, counts), band)
        assert all(state.levels[name] >= least for name, least in heat_levels(priorities, band).items())
        without_heat = govern(without_heat, loads(priorities, counts), Band.NORMAL)
        assert max(without_heat.levels.values()) <= FLOOR


@given(priorities, periods)
def test_whatever_was_all_rates_come_back_once_it_is_calm_and_cool(
    priorities: dict[str, int], periods: list[tuple[dict[str, tuple[int, int]], Band]]
) -> None:
    state = Governed()
    for counts, band in periods:
        state = govern(state, loads(priorities, counts), band)
    steps = sum(state.levels.values())
    for _ in range(state.patience + CALM_PERIODS * steps):
        state = govern(state, loads(priorities, {}), Band.NORMAL)
    assert set(state.levels.values()) == {0}


@dataclass
class Plant:
    """A processor that has `capacity` seconds of work in it a second; what is beyond makes every slot late."""

    capacity: float
    demand: dict[str, float]
    priorities: dict[str, int]

    def loads(self, state: Governed) -> dict[str, Load]:
        busy = {name: demand * share(state.levels.get(name, 0)) for name, demand in self.demand.items()}
        late = 10 if sum(busy.values()) > self.capacity else 0
        return {name: Load(self.priorities[name], 10, late, busy[name]) for name in self.demand}


demands = st.fixed_dictionaries(dict.fromkeys("abcd", st.floats(0.05, 1.0)))


@given(demands, st.fixed_dictionaries(dict.fromkeys("abcd", st.integers(0, 3))), st.floats(0.1, 4.0))
def test_a_constant_load_is_settled_and_then_probed_ever_more_rarely(
    demand: dict[str, float], priorities: dict[str, int], capacity: float
) -> None:
    plant, state = Plant(capacity, demand, priorities), Governed()
    changes = []
    for period in range(2 * CALM_PERIODS_MAX):
        after = govern(state, plant.loads(state), Band.NORMAL)
        if period and after.levels != state.levels:
            changes.append(period)
        state = after
    # A probe is one step up and one down, and waits of 5, 10, … 640 periods lie between them.
    first, last = CALM_PERIODS * 20, CALM_PERIODS_MAX
    assert sum(period > last for period in changes) <= 4
    assert sum(period > first for period in changes) <= 2 * 6
    overloaded = sum(load.late for load in plant.loads(state).values())
    assert not overloaded or state.probing or set(state.levels.values()) == {FLOOR}


def test_the_slot_of_lowest_priority_gives_way_and_comes_back_more_slowly() -> None:
    priorities = {"detector": 90, "signs": 50, "speed": 10}
    state, levels = Governed(), []
    for _ in range(4 * STRIKES):
        state = govern(state, loads(priorities, {"detector": LATE}), Band.NORMAL)
        levels.append(tuple(state.levels[name] for name in priorities))
    assert levels[STRIKES - 1 :: STRIKES] == [(0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 1, 3)]
    back = []
    while any(state.levels.values()):
        state = govern(state, loads(priorities, {}), Band.NORMAL)
        back.append(tuple(state.levels[name] for name in priorities))
    assert back[CALM_PERIODS - 1 :: CALM_PERIODS] == [(0, 0, 3), (0, 0, 2), (0, 0, 1), (0, 0, 0)]


def test_one_bad_period_is_no_overload() -> None:
    state = Governed()
    for period in range(20):
        counts = {"a": LATE if period % 2 == 0 else CALM}
        state = govern(state, loads({"a": 1, "b": 0}, counts), Band.NORMAL)
        assert state.levels == {"a": 0, "b": 0}


def test_a_few_late_frames_are_tolerated() -> None:
    state = Governed()
    for _ in range(20):
        state = govern(state, loads({"a": 1}, {"a": (10, 1)}), Band.NORMAL)
    assert state.levels == {"a": 0}


def test_of_slots_of_one_priority_the_busiest_gives_way() -> None:
    state = Governed()
    for _ in range(STRIKES):
        state = govern(
            state, {"a": Load(5, 10, 9, 0.1), "b": Load(5, 10, 0, 0.8), "c": Load(9, 10, 9, 0.9)}, Band.NORMAL
        )
    assert state.levels == {"a": 0, "b": 1, "c": 0}


@pytest.mark.parametrize(
    ("band", "levels"),
    [
        (Band.NORMAL, {"top": 0, "middle": 0, "low": 0}),
        (Band.WARM, {"top": 0, "middle": 0, "low": 1}),
        (Band.HOT, {"top": 0, "middle": FLOOR, "low": FLOOR}),
        (Band.CRITICAL, {"top": 0, "middle": PAUSED, "low": PAUSED}),
    ],
)
def test_heat_takes_from_the_lowest_priorities(band: Band, levels: dict[str, int]) -> None:
    assert heat_levels({"top": 9, "middle": 5, "low": 1}, band) == levels


def test_slots_of_equal_priority_slow_down_together_and_none_is_paused() -> None:
    assert [set(heat_levels({"a": 5, "b": 5}, band).values()) for band in Band] == [{0}, {1}, {2}, {3}]


def test_the_share_of_a_level_halves_and_ends_at_none() -> None:
    assert [share(level) for level in range(PAUSED + 1)] == [1.0, 0.5, 0.25, 0.125, 0.0]
