"""When a generation is due: every trigger, and everything that may stand in its way."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_cloud.loop.decide import MAX_DOUBLINGS, Generation, Seen, decide, since
from roadloop_cloud.loop.policy import DAY_S, HOUR_S, Budget, LoopPolicy, Triggers
from roadloop_cloud.retrain.pipeline import RetrainSpec

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
POLICY = LoopPolicy(
    retrain=RetrainSpec(task="traffic-speed", data="/data"),
    triggers=Triggers(drift=True, new_labels=100, every_s=7 * DAY_S),
)
QUIET = Seen(
    enabled=NOW - timedelta(days=1),
    generations=(),
    asked=None,
    alarms=(),
    new_labels=0,
    rollout=None,
    free_bytes=10**12,
)


def turn(hours_ago: float, *, published: bool = True, cpu_s: float = 60.0, delivered_bytes: int = 1000) -> Generation:
    ended = NOW - timedelta(hours=hours_ago)
    return Generation(ended - timedelta(minutes=10), ended, published, cpu_s, delivered_bytes)


def changed(**fields: object) -> Seen:
    return replace(QUIET, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (changed(alarms=("speed shifted",)), "drift"),
        (changed(new_labels=100), "labels"),
        (changed(enabled=NOW - timedelta(days=7)), "schedule"),
        (changed(generations=(turn(24 * 7),)), "schedule"),
        (changed(asked=NOW), "person"),
        (changed(asked=NOW, alarms=("speed shifted",)), "person"),
    ],
)
def test_each_trigger_begins_a_generation(seen: Seen, why: str) -> None:
    decision = decide(POLICY, seen, NOW)
    assert (decision.action, decision.why) == ("start", why)


def test_without_a_trigger_it_rests_and_says_what_is_missing() -> None:
    decision = decide(POLICY, changed(new_labels=40), NOW)
    assert (decision.action, decision.why) == ("rest", "no-trigger")
    assert decision.detail == "no drift, 40 of 100 new labels"
    assert decision.until == QUIET.enabled + timedelta(days=7)


@pytest.mark.parametrize(
    ("triggers", "seen"),
    [
        (Triggers(drift=False), changed(alarms=("speed shifted",))),
        (Triggers(drift=False, new_labels=101), changed(new_labels=100)),
        (Triggers(drift=False), changed(enabled=NOW - timedelta(days=400))),
    ],
)
def test_a_trigger_that_nobody_set_begins_nothing(triggers: Triggers, seen: Seen) -> None:
    assert decide(msgspec.structs.replace(POLICY, triggers=triggers), seen, NOW).action == "rest"


def test_one_generation_at_a_time() -> None:
    running = Generation(NOW - timedelta(days=30), None, False, 0.0, 0)
    decision = decide(POLICY, changed(generations=(running,), asked=NOW), NOW)
    assert (decision.action, decision.why) == ("wait", "running")


def test_the_next_one_begins_from_what_the_fleet_has_come_to_run() -> None:
    decision = decide(POLICY, changed(rollout=7, asked=NOW), NOW)
    assert (decision.action, decision.why) == ("wait", "rolling-out")
    assert "rollout 7" in decision.detail


def test_after_a_generation_it_cools_down_but_not_for_a_person() -> None:
    seen = changed(generations=(turn(5.9),), alarms=("speed shifted",))
    decision = decide(POLICY, seen, NOW)
    assert (decision.action, decision.why) == ("wait", "cool-down")
    assert decision.until == NOW + timedelta(hours=0.1)
    assert decide(POLICY, seen, NOW + timedelta(hours=0.1)).action == "start"
    assert decide(POLICY, replace(seen, asked=NOW), NOW).why == "person"


def test_each_one_that_published_nothing_doubles_the_cool_down() -> None:
    for fruitless in range(1, MAX_DOUBLINGS + 3):
        turns = tuple(turn(400 - n, published=False) for n in range(fruitless))
        ended = turns[-1].ended
        assert ended is not None
        seen = changed(enabled=NOW - timedelta(days=60), generations=turns, alarms=("speed shifted",))
        until = ended + timedelta(hours=6 * 2 ** min(fruitless, MAX_DOUBLINGS))
        assert decide(POLICY, seen, until - timedelta(seconds=1)).until == until
        assert decide(POLICY, seen, until).action == "start"


@pytest.mark.parametrize(
    ("budget", "turns", "text"),
    [
        (Budget(generations=2), (turn(30), turn(20)), "2 of 2 generations"),
        (Budget(cpu_s=100), (turn(30), turn(20)), "120 of 100 s of processor time"),
        (Budget(delivered_bytes=2000), (turn(30), turn(20)), "2,000 of 2,000 bytes to vehicles"),
    ],
)
def test_a_spent_budget_holds_even_a_person(budget: Budget, turns: tuple[Generation, ...], text: str) -> None:
    policy = msgspec.structs.replace(POLICY, budget=budget)
    decision = decide(policy, changed(generations=turns, asked=NOW), NOW)
    assert (decision.action, decision.why) == ("wait", "budget")
    assert text in decision.detail
    assert decision.until == turns[0].began + timedelta(days=7)
    assert decide(policy, changed(generations=turns, asked=NOW), decision.until).action == "start"


def test_without_room_nothing_begins() -> None:
    decision = decide(POLICY, changed(free_bytes=999_999_999, asked=NOW), NOW)
    assert (decision.action, decision.why) == ("wait", "disk")


def test_news_is_what_came_since_the_last_generation_began() -> None:
    assert since(QUIET.enabled, ()) == QUIET.enabled
    assert since(QUIET.enabled, (turn(5), turn(1))) == turn(1).began


_TURNS = st.lists(
    st.builds(turn, st.floats(0.0, 2000.0), published=st.booleans(), cpu_s=st.floats(0, 1e4)), max_size=12
).map(lambda turns: tuple(sorted(turns, key=lambda one: one.began)))


@given(_TURNS, st.booleans(), st.integers(0, 300), st.booleans(), st.floats(0, 500))
def test_never_more_than_the_budget_within_any_period(
    turns: tuple[Generation, ...], drift: bool, labels: int, asked: bool, after_h: float
) -> None:
    policy = msgspec.structs.replace(POLICY, budget=Budget(generations=3, cpu_s=5e3), cool_down_s=HOUR_S)
    now = NOW + timedelta(hours=after_h)
    seen = changed(
        enabled=NOW - timedelta(days=100),
        generations=turns,
        alarms=("speed shifted",) * drift,
        new_labels=labels,
        asked=NOW if asked else None,
    )
    decision = decide(policy, seen, now)
    recent = [one for one in turns if one.began > now - timedelta(days=7)]
    if decision.action == "start":
        assert len(recent) < 3
        assert sum(one.cpu_s for one in recent) < 5e3
        assert asked or not turns or now - turns[-1].ended >= timedelta(hours=1)  # type: ignore[operator]
    elif decision.until is not None:
        assert decision.until > now, "what is waited for lies ahead"
