"""The sequential test of a candidate: what is judged, merging, and reports that cannot be true."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_cloud.rollout.evidence import Bound, is_possible, judge, merge, quantile_us, shadows_of
from roadloop_models.contract.messages import LOG_RATIO_MAX, ErrorInfo, ReleaseRef, Reported, ReportedSlot, ShadowReport

REF = ReleaseRef(task="traffic-sign", release=2, version="v2", manifest_sha256="0" * 64)


def report(frames: int = 0, **sums: object) -> ShadowReport:
    return msgspec.structs.replace(ShadowReport(ref=REF, state="running", frames=frames), **sums)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=5))
def test_sums_of_vehicles_add_up(frames: list[int]) -> None:
    reports = [report(n, disagreed=n // 3, skipped=1, latency_counts=(0, n), latency_log_ratio_sum=0.5) for n in frames]
    total = merge(reports)
    assert total.frames == sum(frames) and total.disagreed == sum(n // 3 for n in frames)
    assert total.skipped == len(frames) and total.latency_counts == (0, sum(frames))


def test_the_order_of_the_vehicles_does_not_matter() -> None:
    one, other = report(400, disagreed=3, latency_counts=(1, 2, 3)), report(900, disagreed=80, errors=2)
    assert judge([one, other], Bound()) == judge([other, one], Bound())


def test_without_frames_nothing_is_decided() -> None:
    evidence = judge([report()], Bound())
    assert evidence.verdict == "undecided" and evidence.vehicles == 0
    assert judge([], Bound()).verdict == "undecided"


def test_a_candidate_that_a_vehicle_refused_fails_with_the_reason() -> None:
    error = ErrorInfo(code="golden-mismatch", detail="row 3 differs")
    evidence = judge([report(5000), report(state="refused", error=error)], Bound())
    assert evidence.verdict == "fail" and "row 3 differs" in evidence.reason
    assert judge([report(5000), report(state="refused", error=error)], Bound(max_refused=0.5)).verdict == "undecided"


def test_a_task_without_confidence_is_judged_by_the_rest() -> None:
    shadow = report(20_000, latency_log_ratio_square_sum=10.0)
    assert judge([shadow], Bound()).verdict == "pass"


def test_too_few_vehicles_keep_a_candidate_from_passing() -> None:
    evidence = judge([report(20_000)], Bound(min_vehicles=2))
    assert evidence.verdict == "undecided" and "1 vehicles" in evidence.reason


@pytest.mark.parametrize(
    "made_up",
    [
        {"disagreed": 11},
        {"confidence_frames": 11},
        {"confidence_frames": 10, "confidence_delta_sum": 1e9},
        {"latency_log_ratio_sum": 31.0, "latency_log_ratio_square_sum": 90.0},
        {"latency_log_ratio_square_sum": -1.0},
        {"latency_log_ratio_sum": math.nan},
        {"latency_log_ratio_square_sum": math.inf},
    ],
)
def test_sums_that_cannot_be_true_count_for_nothing(made_up: dict[str, object]) -> None:
    lie = report(10, **made_up)
    assert not is_possible(lie)
    assert judge([report(500), lie], Bound()).sums == judge([report(500)], Bound()).sums


@given(st.lists(st.floats(-1, 1), max_size=60))
def test_true_sums_are_possible(deltas: list[float]) -> None:
    squares = sum(delta**2 for delta in deltas)
    shadow = report(
        len(deltas),
        confidence_frames=len(deltas),
        confidence_delta_sum=sum(deltas),
        confidence_delta_square_sum=squares,
        latency_log_ratio_sum=LOG_RATIO_MAX * sum(deltas),
        latency_log_ratio_square_sum=LOG_RATIO_MAX**2 * squares,
    )
    assert is_possible(shadow)


def test_quantiles_of_latency_are_within_their_place() -> None:
    counts = (0, 0, 50, 40, 10)
    assert 4.0 <= quantile_us(counts, 0.5) <= 8.0
    assert 8.0 <= quantile_us(counts, 0.9) <= 16.0
    assert math.isnan(quantile_us((), 0.5))


def test_only_shadows_of_that_release_are_taken() -> None:
    other = msgspec.structs.replace(REF, release=3)

    def reported(ref: ReleaseRef) -> Reported:
        slot = ReportedSlot(
            task="traffic-sign",
            running=None,
            runtime="onnx",
            precision="int8",
            state="idle",
            shadow=ShadowReport(ref=ref, state="running", frames=1),
        )
        return Reported(boot=1, agent_version="1", hardware="", desired_version=1, slots={"a": slot})

    assert [said.ref for said in shadows_of([reported(REF), reported(other)], REF)] == [REF]
