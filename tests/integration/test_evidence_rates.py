"""The error rates that the sequential test of a candidate states, measured over seeded simulations."""

import math

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from roadloop_cloud.rollout.evidence import Bound, Verdict, judge
from roadloop_models.contract.messages import LOG_RATIO_MAX, ReleaseRef, ShadowReport

REF = ReleaseRef(task="traffic-sign", release=2, version="v2", manifest_sha256="0" * 64)
RUNS = 400
"""Of each case."""
LOOKS = np.unique(np.geomspace(10, 4000, 16).astype(int))
Values = npt.NDArray[np.float64]


def seen(disagreed: Values, log_ratios: Values, deltas: Values, failed: Values, frames: int) -> ShadowReport:
    """What a vehicle reports after so many frames; errors are counted beside them."""
    return ShadowReport(
        ref=REF,
        state="running",
        frames=frames,
        disagreed=int(disagreed[:frames].sum()),
        errors=int(failed[:frames].sum()),
        confidence_frames=frames,
        confidence_delta_sum=float(deltas[:frames].sum()),
        confidence_delta_square_sum=float((deltas[:frames] ** 2).sum()),
        latency_log_ratio_sum=float(log_ratios[:frames].sum()),
        latency_log_ratio_square_sum=float((log_ratios[:frames] ** 2).sum()),
    )


def verdicts(
    bound: Bound, disagreement: float = 0.0, ratio: float = 1.0, loss: float = 0.0, errors: float = 0.0, like: float = 1
) -> list[Verdict]:
    """The first decision of each simulated run that is looked at again and again; every frame comes `like` times."""
    first: list[Verdict] = []
    for run in range(RUNS):
        random = np.random.default_rng([run, 7])
        count = int(LOOKS[-1])
        draws = [
            (random.random(count) < disagreement).astype(float),
            np.clip(random.normal(math.log(ratio), 0.4, count), -LOG_RATIO_MAX, LOG_RATIO_MAX),
            np.clip(random.normal(-loss, 0.1, count), -1, 1),
            (random.random(count) < errors).astype(float),
        ]
        disagreed, ratios, deltas, failed = (np.repeat(each, int(like)) for each in draws)
        looked = (judge([seen(disagreed, ratios, deltas, failed, int(n * like))], bound).verdict for n in LOOKS)
        first.append(next((verdict for verdict in looked if verdict != "undecided"), "undecided"))
    return first


def within_chance(count: int, rate: float) -> bool:
    """Whether so many of RUNS may come of a rate of at most `rate`: three standard deviations."""
    return count <= RUNS * rate + 3.0 * math.sqrt(RUNS * rate * (1.0 - rate))


AT_THE_BOUND = [{"disagreement": 0.05}, {"ratio": 1.5}, {"loss": 0.05}, {"errors": 0.0101}]


@pytest.mark.parametrize("case", AT_THE_BOUND, ids=lambda case: next(iter(case)))
def test_a_candidate_at_a_bound_is_judged_wrongly_no_more_often_than_stated_however_often_one_looks(
    case: dict[str, float],
) -> None:
    bound = Bound(like_frames=1, false_fail=0.1, false_pass=0.1)
    came = verdicts(bound, **case)
    assert within_chance(came.count("fail"), bound.false_fail)
    assert within_chance(came.count("pass"), bound.false_pass)


def test_a_good_candidate_passes_and_a_bad_one_fails() -> None:
    bound = Bound(like_frames=1)
    assert verdicts(bound, disagreement=0.01).count("pass") > 0.95 * RUNS
    for bad in ({"disagreement": 0.15}, {"ratio": 2.2}, {"loss": 0.12}, {"errors": 0.05}):
        assert verdicts(bound, **bad).count("fail") > 0.95 * RUNS, bad


def test_frames_that_look_alike_count_as_one() -> None:
    bound = Bound(like_frames=20, false_fail=0.1, false_pass=0.1)
    came = verdicts(bound, disagreement=0.05, like=20)
    assert within_chance(came.count("fail"), bound.false_fail) and within_chance(came.count("pass"), bound.false_pass)
    careless = verdicts(msgspec.structs.replace(bound, like_frames=1), disagreement=0.05, like=20)
    assert not within_chance(careless.count("fail") + careless.count("pass"), bound.false_fail + bound.false_pass)
