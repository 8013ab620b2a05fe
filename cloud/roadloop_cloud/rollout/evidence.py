"""Is a candidate good enough? A sequential test of what vehicles saw of it in the shadow. Pure: sums in, a verdict out.

Sums may be judged as often as one likes, at any moment and in any order of vehicles, and a test may be stopped because
of what it showed: the stated error rates hold all the same. Each criterion is tested by a *test martingale*, a bet
against one side of its bound whose capital is not expected to grow while that side is true. By Ville's inequality the
capital then ever exceeds 1/e with a probability of at most e (Ville 1939; Shafer & Vovk 2011, "Test martingales, Bayes
factors and p-values"; Ramdas et al. 2023, "Game-theoretic statistics and safe anytime-valid inference").

- Shares (disagreement, errors): mixtures of Wald's likelihood ratios over a grid of alternatives (mSPRT).
- Means (confidence, logarithm of the latency ratio): the empirical-Bernstein martingale of Howard, Ramdas, McAuliffe
  and Sekhon 2021 ("Time-uniform, nonparametric, nonasymptotic confidence sequences", after Fan et al. 2015), centred at
  the bound, mixed over a grid. It needs bounded values, and of them only number, sum and sum of squares.

**Error rates.** A candidate that is within all bounds fails with a probability of at most `false_fail` (divided over
the criteria); one that is beyond any bound passes with at most `false_pass` (it would have to pass that very
criterion). One that lies at a bound may stay undecided for ever. Frames that follow each other look alike and are no
independent evidence: `like_frames` of them count as one, which makes the rates hold where stretches of that length
agree entirely. What is judged is the mean over the frames that were compared: a vehicle that saw more weighs more.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Annotated, Literal

import msgspec

from roadloop_models.contract.messages import LOG_RATIO_MAX, ReleaseRef, Reported, ShadowReport, Share
from roadloop_models.contract.shadows import COUNTS, NUMBERS, add, same_content

Verdict = Literal["pass", "fail", "undecided"]
_Rate = Annotated[float, msgspec.Meta(gt=0, lt=0.5)]
_OpenShare = Annotated[float, msgspec.Meta(gt=0, lt=1)]
_CRITERIA = 4
_STAKES = (0.8, *(2.0**-power for power in range(1, 11)))
_STEPS = tuple(2.0**-power for power in range(1, 11))


class Bound(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a candidate may differ from the incumbent, and how sure the verdict has to be."""

    max_disagreement: _OpenShare = 0.05
    """Of the frames, those that the candidate decides otherwise."""
    max_error_rate: _OpenShare = 0.01
    """Of the frames, those on which the candidate fails."""
    max_latency_ratio: Annotated[float, msgspec.Meta(ge=0.1, le=15)] = 1.5
    """Candidate's latency by the incumbent's: geometric mean over the frames."""
    max_confidence_loss: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.05
    """Incumbent's confidence minus the candidate's: mean over the frames."""
    false_fail: _Rate = 0.05
    false_pass: _Rate = 0.05
    like_frames: Annotated[int, msgspec.Meta(ge=1)] = 10
    min_vehicles: Annotated[int, msgspec.Meta(ge=1)] = 1
    """No candidate passes before so many vehicles have compared frames."""
    max_refused: Share = 0.0
    """Of the vehicles, those on which the candidate could not run."""


@dataclass(frozen=True)
class Criterion:
    """One criterion: what was seen, what is allowed, and the capital of both bets as a share of what decides.

    `value` is NaN where nothing was seen. A criterion that does not apply (no confidences) passes.
    """

    name: Literal["disagreement", "errors", "latency_ratio", "confidence_loss"]
    verdict: Verdict
    value: float
    bound: float
    for_pass: float
    for_fail: float


@dataclass(frozen=True)
class Evidence:
    """The verdict, why, and what it rests on: `sums` of all vehicles."""

    verdict: Verdict
    reason: str
    criteria: tuple[Criterion, ...]
    vehicles: int
    """Those that have compared frames."""
    sums: "Sums"


@dataclass(frozen=True)
class Sums:
    """The sums of several shadow reports; the fields are theirs."""

    frames: int = 0
    disagreed: int = 0
    errors: int = 0
    skipped: int = 0
    confidence_frames: int = 0
    confidence_delta_sum: float = 0.0
    confidence_delta_square_sum: float = 0.0
    latency_log_ratio_sum: float = 0.0
    latency_log_ratio_square_sum: float = 0.0
    latency_counts: tuple[int, ...] = ()
    incumbent_latency_counts: tuple[int, ...] = ()

    @property
    def attempts(self) -> int:
        """Frames that the candidate was given."""
        return self.frames + self.errors

    @property
    def disagreement(self) -> float:
        """Share of the frames decided otherwise; NaN without frames."""
        return self.disagreed / self.frames if self.frames else math.nan

    @property
    def error_rate(self) -> float:
        """Share of the frames on which it failed; NaN where it was given none."""
        return self.errors / self.attempts if self.attempts else math.nan

    @property
    def latency_ratio(self) -> float:
        """Candidate's by the incumbent's, geometric mean; NaN without frames."""
        return math.exp(self.latency_log_ratio_sum / self.frames) if self.frames else math.nan

    @property
    def confidence_delta(self) -> float:
        """Candidate's minus the incumbent's; NaN where the task has no confidence."""
        return self.confidence_delta_sum / self.confidence_frames if self.confidence_frames else math.nan


def merge(reports: Iterable[ShadowReport]) -> Sums:
    """Add up. Reports are levels: of each slot of a vehicle the newest, and none twice."""
    every = list(reports)
    if not every:
        return Sums()
    total = reduce(add, every)
    return Sums(**{name: getattr(total, name) for name in (*NUMBERS, *COUNTS)})


def quantile_us(counts: Sequence[int], share: float) -> float:
    """The latency that `share` of the decisions do not exceed, from counts by powers of two; NaN without any.

    Within a place decisions are taken to be spread evenly on a logarithmic scale.
    """
    wanted = share * sum(counts)
    before = 0
    for place, count in enumerate(counts):
        if count and before + count >= wanted:
            return float(2.0 ** (place + (wanted - before) / count))
        before += count
    return math.nan


def shadows_of(reports: Iterable[Reported], ref: ReleaseRef) -> list[ShadowReport]:
    """What vehicles say of a release in the shadow, one entry for each slot."""
    shadows = (slot.shadow for report in reports for slot in report.slots.values())
    return [said for said in shadows if said is not None and same_content(said.ref, ref)]


def is_possible(report: ShadowReport) -> bool:
    """Whether the sums can be those of so many frames."""
    return (
        max(report.disagreed, report.confidence_frames) <= report.frames
        and _fits(report.confidence_frames, report.confidence_delta_sum, report.confidence_delta_square_sum, 1.0)
        and _fits(report.frames, report.latency_log_ratio_sum, report.latency_log_ratio_square_sum, LOG_RATIO_MAX)
    )


def _fits(count: int, total: float, square_total: float, limit: float) -> bool:
    """Whether `count` values within +-limit may have this sum and sum of squares (Cauchy-Schwarz), but for rounding."""
    slack = 1e-6 * (1.0 + count)
    within = -slack <= square_total <= limit**2 * count + slack
    return within and total**2 <= count * square_total + slack * (1.0 + abs(total))


def judge(sums: Sequence[ShadowReport], bound: Bound) -> Evidence:
    """The verdict on a candidate from the newest report of every slot in whose shadow it runs; see the module.

    Reports that cannot be true count for nothing: one vehicle must not decide for the fleet by what it makes up.
    """
    possible = [report for report in sums if is_possible(report)]
    total = merge(possible)
    vehicles = sum(report.frames > 0 for report in possible)
    criteria = _criteria(total, bound)
    verdict, reason = _verdict(sums, criteria, vehicles, bound)
    return Evidence(verdict, reason, criteria, vehicles, total)


def _verdict(
    reports: Sequence[ShadowReport], criteria: tuple[Criterion, ...], vehicles: int, bound: Bound
) -> tuple[Verdict, str]:
    refused = [report for report in reports if report.state == "refused"]
    if len(refused) > bound.max_refused * len(reports):
        error = next((report.error for report in refused if report.error is not None), None)
        why = "" if error is None else f": {error.code}: {error.detail}"
        return "fail", f"{len(refused)} of {len(reports)} vehicles refused it{why}"
    for criterion in criteria:
        if criterion.verdict == "fail":
            return "fail", f"{criterion.name} {criterion.value:.4g}, allowed {criterion.bound:.4g}"
    open_names = [criterion.name for criterion in criteria if criterion.verdict == "undecided"]
    if open_names:
        return "undecided", f"not enough evidence on {', '.join(open_names)}"
    if vehicles < bound.min_vehicles:
        return "undecided", f"{vehicles} vehicles have compared frames, needed {bound.min_vehicles}"
    return "pass", ""


def _criteria(total: Sums, bound: Bound) -> tuple[Criterion, ...]:
    like = bound.like_frames
    frames, attempts = total.frames / like, total.attempts / like
    loss = _Mean(total.confidence_frames, -total.confidence_delta_sum, total.confidence_delta_square_sum, 1.0)
    ratio = _Mean(total.frames, total.latency_log_ratio_sum, total.latency_log_ratio_square_sum, LOG_RATIO_MAX)
    return (
        _criterion(
            "disagreement",
            total.disagreement,
            bound.max_disagreement,
            _share_bets(frames, total.disagreed / like, bound.max_disagreement),
            bound,
        ),
        _criterion(
            "errors",
            total.error_rate,
            bound.max_error_rate,
            _share_bets(attempts, total.errors / like, bound.max_error_rate),
            bound,
        ),
        _criterion(
            "latency_ratio",
            total.latency_ratio,
            bound.max_latency_ratio,
            ratio.bets(math.log(bound.max_latency_ratio), like),
            bound,
        ),
        Criterion("confidence_loss", "pass", math.nan, bound.max_confidence_loss, 1.0, 0.0)
        if total.frames and not total.confidence_frames
        else _criterion(
            "confidence_loss",
            loss.mean,
            bound.max_confidence_loss,
            loss.bets(bound.max_confidence_loss, like),
            bound,
        ),
    )


def _criterion(
    name: Literal["disagreement", "errors", "latency_ratio", "confidence_loss"],
    value: float,
    allowed: float,
    log_capital: tuple[float, float],
    bound: Bound,
) -> Criterion:
    """`log_capital`: of the bet that it is within the bound, and of the bet that it is beyond."""
    within, beyond = log_capital
    for_pass = within / math.log(1.0 / bound.false_pass)
    for_fail = beyond / math.log(_CRITERIA / bound.false_fail)
    verdict: Verdict = "fail" if for_fail >= 1.0 else "pass" if for_pass >= 1.0 else "undecided"
    return Criterion(name, verdict, value, allowed, _clipped(for_pass), _clipped(for_fail))


def _share_bets(attempts: float, hits: float, bound: float) -> tuple[float, float]:
    """Logarithms of the capital of the bets that the share of hits is below the bound, and that it is above."""
    below = [0.0, *(bound * (1.0 - step) for step in _STEPS)]
    above = [bound + (1.0 - bound) * step for step in _STEPS]
    return (
        _mixed([_log_ratio(attempts, hits, alternative, bound) for alternative in below]),
        _mixed([_log_ratio(attempts, hits, alternative, bound) for alternative in above]),
    )


def _log_ratio(attempts: float, hits: float, alternative: float, bound: float) -> float:
    """Wald's: how much likelier the hits are under the alternative than under the bound."""
    if alternative == 0.0 and hits > 0:
        return -math.inf
    gained = hits * math.log(alternative / bound) if hits else 0.0
    return gained + (attempts - hits) * math.log((1.0 - alternative) / (1.0 - bound))


@dataclass(frozen=True)
class _Mean:
    """Number, sum and sum of squares of values within +-limit."""

    count: int
    total: float
    square_total: float
    limit: float

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan

    def bets(self, bound: float, like: int) -> tuple[float, float]:
        """Logarithms of the capital of the bets that the mean is below the bound, and that it is above."""
        scale = self.limit + abs(bound)  # the values' distance from the bound is at most that
        gained = (self.total - self.count * bound) / (scale * like)
        spread = max(0.0, self.square_total - 2.0 * bound * self.total + self.count * bound**2) / (scale**2 * like)
        return _mixed(_grown(-gained, spread)), _mixed(_grown(gained, spread))


def _grown(gained: float, spread: float) -> list[float]:
    return [stake * gained - (-math.log1p(-stake) - stake) * spread for stake in _STAKES]


def _mixed(logarithms: Sequence[float]) -> float:
    """The logarithm of the mean of the capitals: each bet gets an equal part of what there is."""
    largest = max(logarithms)
    if largest == -math.inf:
        return largest
    return largest + math.log(math.fsum(math.exp(each - largest) for each in logarithms) / len(logarithms))


def _clipped(share: float) -> float:
    return min(max(share, 0.0), 1.0)
