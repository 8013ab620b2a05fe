"""What a suspend must not do: run out a trial's time, or leave a vehicle waiting for a connection that is gone."""

from hypothesis import given
from hypothesis import strategies as st

from roadloop_agent.suspend import NOTICED_S, SLEPT_S, AwakeClock, SleepWatch


@given(st.lists(st.floats(0, 1000), max_size=30))
def test_only_time_awake_passes(steps: list[float]) -> None:
    now_s = 50.0
    clock = AwakeClock(lambda: now_s)
    begun_s, awake_s = clock(), 0.0
    for step_s in steps:
        now_s += step_s
        gap_s = now_s - (now_s - step_s)
        awake_s += 0.0 if gap_s > SLEPT_S else gap_s
        assert abs(clock() - begun_s - awake_s) < 1e-6


def test_a_suspend_is_noticed_once() -> None:
    now_s = 0.0
    watch = SleepWatch(lambda: now_s)
    heard = []
    for step_s in (1.0, 1.0, 600.0, 1.0, NOTICED_S, 1.0):
        now_s += step_s
        heard.append(watch.slept_s())
    assert heard == [0.0, 0.0, 600.0, 0.0, 0.0, 0.0]
