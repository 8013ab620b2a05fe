"""The health window: when a version on trial is kept, and when it is taken back."""

from dataclasses import dataclass

import pytest

from roadloop_agent.update import health
from roadloop_agent.update.health import SILENCE_S, Baseline, Verdict, Window, judge, learn, observe
from roadloop_models.contract.messages import ReleaseRef


@dataclass(frozen=True)
class Sample:
    decisions: int = 10
    errors: int = 0
    latency_mean_us: float = 200.0
    confidence_mean: float | None = 0.9
    idle: bool = False
    ref: ReleaseRef | None = None


INCUMBENT = Baseline(latency_us=200.0, confidence=0.9)


def verdict(
    *samples: Sample,
    passed_s: float = 30.0,
    baseline: Baseline = INCUMBENT,
    max_error_rate: float = 0.01,
    max_latency_ratio: float = 3.0,
) -> tuple[Verdict, str]:
    window = Window(100.0, 30.0, max_error_rate, max_latency_ratio, baseline)
    for sample in samples:
        window = observe(window, sample)
    result, error = judge(window, 100.0 + passed_s)
    assert (error is not None) == (result is Verdict.TAKE_BACK)
    assert error is None or error.code == "health-failed"
    return result, error.detail if error else ""


def test_keeps_a_healthy_version_when_the_window_ends_and_not_before() -> None:
    assert verdict(Sample(), passed_s=29.9) == (Verdict.UNDECIDED, "")
    assert verdict(Sample()) == (Verdict.KEEP, "")


def test_many_errors_end_the_trial_before_its_window() -> None:
    result, detail = verdict(Sample(decisions=0, errors=20), passed_s=1.0)
    assert result is Verdict.TAKE_BACK and "20 errors in 20" in detail


def test_few_errors_wait_for_the_end_of_the_window() -> None:
    assert verdict(Sample(decisions=5, errors=1), passed_s=1.0)[0] is Verdict.UNDECIDED
    assert verdict(Sample(decisions=5, errors=1))[0] is Verdict.TAKE_BACK


@pytest.mark.parametrize(("errors", "wanted"), [(1, Verdict.KEEP), (2, Verdict.TAKE_BACK)])
def test_the_error_rate_may_reach_its_bound(errors: int, wanted: Verdict) -> None:
    assert verdict(Sample(decisions=100 - errors, errors=errors))[0] is wanted


def test_no_decision_is_a_failure() -> None:
    assert verdict(Sample(decisions=0))[0] is Verdict.TAKE_BACK


def test_without_any_word_from_drive_the_end_of_the_window_is_waited_past_but_not_for_ever() -> None:
    assert verdict(passed_s=30.0 + SILENCE_S - 0.1)[0] is Verdict.UNDECIDED
    assert verdict(passed_s=30.0 + SILENCE_S)[0] is Verdict.TAKE_BACK


def test_a_source_that_ended_after_enough_decisions_is_no_failure() -> None:
    assert verdict(Sample(decisions=5), Sample(decisions=0, idle=True))[0] is Verdict.KEEP


def test_an_idle_source_extends_the_window_to_a_bound() -> None:
    samples = (Sample(decisions=4), Sample(decisions=0, idle=True))
    assert verdict(*samples)[0] is Verdict.UNDECIDED
    assert verdict(*samples, passed_s=299.0)[0] is Verdict.UNDECIDED
    assert verdict(*samples, passed_s=300.0)[0] is Verdict.TAKE_BACK


@pytest.mark.parametrize(
    ("latency_us", "before_us", "wanted"),
    [
        (4_900.0, 100.0, Verdict.KEEP),  # far slower, and still fast
        (5_100.0, 100.0, Verdict.TAKE_BACK),
        (29_000.0, 10_000.0, Verdict.KEEP),
        (31_000.0, 10_000.0, Verdict.TAKE_BACK),
        (31_000.0, float("nan"), Verdict.KEEP),  # nothing to compare with
    ],
)
def test_latency_is_bounded_by_the_version_before(latency_us: float, before_us: float, wanted: Verdict) -> None:
    assert verdict(Sample(latency_mean_us=latency_us), baseline=Baseline(before_us, 0.9))[0] is wanted


def test_the_policy_says_how_much_slower_a_version_may_be() -> None:
    slow, before = Sample(latency_mean_us=15_000.0), Baseline(10_000.0, 0.9)
    assert verdict(slow, baseline=before, max_latency_ratio=1.6)[0] is Verdict.KEEP
    assert verdict(slow, baseline=before, max_latency_ratio=1.4)[0] is Verdict.TAKE_BACK


@pytest.mark.parametrize(
    ("confidence", "wanted"), [(0.46, Verdict.KEEP), (0.44, Verdict.TAKE_BACK), (None, Verdict.KEEP)]
)
def test_confidence_must_not_collapse(confidence: float | None, wanted: Verdict) -> None:
    assert verdict(Sample(confidence_mean=confidence))[0] is wanted


def test_seconds_in_which_the_machine_was_busy_are_no_evidence_of_a_slow_version() -> None:
    busy, idle, usual = Sample(latency_mean_us=100_000.0), Sample(decisions=0, latency_mean_us=0.0), Sample()
    assert verdict(busy, idle, busy, usual)[0] is Verdict.KEEP
    assert verdict(busy, idle, busy)[0] is Verdict.TAKE_BACK


def test_the_baseline_ignores_seconds_without_decisions() -> None:
    baseline = learn(learn(Baseline(), Sample(latency_mean_us=100.0)), Sample(decisions=0, latency_mean_us=0.0))
    assert baseline == Baseline(100.0, 0.9)
    moved = learn(baseline, Sample(latency_mean_us=300.0, confidence_mean=None))
    assert moved.latency_us == pytest.approx(100.0 + 200.0 * health._BASELINE_WEIGHT) and moved.confidence == 0.9
