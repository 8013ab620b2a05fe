"""Is the version on trial as healthy as the one it replaces? Pure: samples and time in, a verdict out.

The bounds are relative to the incumbent on the same vehicle, because a budget in microseconds that fits one processor
says nothing about the next.
"""

import math
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol

from roadloop_models.contract.messages import ErrorInfo, ReleaseRef
from roadloop_models.errors import HealthError

ENOUGH_ATTEMPTS = 20
"""Decisions and errors after which the error rate ends a trial before its window does."""
ENOUGH_DECISIONS = 5
"""Decisions that count as evidence where the source has nothing more to give."""
IDLE_WINDOWS = 10
"""How many windows a trial may last while its source is idle and has not given ENOUGH_DECISIONS."""
SILENCE_S = 10.0
"""How long past its end a window waits for a first word from drive: after a stall of link (a suspended machine) its
clock is ahead of what drive has said meanwhile. A drive that hangs is the supervisor's to end."""
LATENCY_FLOOR_US = 5_000.0
"""Below this no version is too slow, whatever the incumbent needs."""
CONFIDENCE_RATIO = 0.5
_BASELINE_WEIGHT = 0.05


class HealthSample(Protocol):
    """What drive says of one slot, about once a second, counted since the sample before."""

    @property
    def ref(self) -> ReleaseRef | None:
        """The release that made these decisions."""

    @property
    def decisions(self) -> int:
        """Decisions made."""

    @property
    def errors(self) -> int:
        """Inferences that failed or gave values that are not finite."""

    @property
    def latency_mean_us(self) -> float:
        """Mean of the decisions' latency, microseconds; 0 where there are none."""

    @property
    def confidence_mean(self) -> float | None:
        """Mean confidence; None where the task has none or there are no decisions."""

    @property
    def idle(self) -> bool:
        """Whether the source has ended or has nothing to give."""


@dataclass(frozen=True)
class Baseline:
    """How the incumbent does: moving means over its samples. NaN: not known."""

    latency_us: float = math.nan
    confidence: float = math.nan


class Verdict(Enum):
    """What to do with the version on trial."""

    UNDECIDED = "undecided"
    KEEP = "keep"
    TAKE_BACK = "take back"


@dataclass(frozen=True)
class Window:
    """The evidence since a trial began at `opened_s` (monotonic)."""

    opened_s: float
    length_s: float
    max_error_rate: float
    max_latency_ratio: float
    baseline: Baseline = field(default_factory=Baseline)
    decisions: int = 0
    errors: int = 0
    latency_best_us: float = math.inf
    """The least mean of a sample. A version that is too slow is too slow in its best second; in a bad second of the
    machine every version is."""
    confidence_sum: float = 0.0
    confidence_count: int = 0
    idle: bool = False
    samples: int = 0

    @property
    def attempts(self) -> int:
        """Inferences, whether or not they gave a decision."""
        return self.decisions + self.errors

    @property
    def error_rate(self) -> float:
        """Failed inferences per inference."""
        return self.errors / self.attempts if self.attempts else 0.0


def learn(baseline: Baseline, sample: HealthSample) -> Baseline:
    """Take one sample of the incumbent into its moving means."""
    if sample.decisions <= 0:
        return baseline
    return Baseline(
        _moved(baseline.latency_us, sample.latency_mean_us),
        _moved(baseline.confidence, sample.confidence_mean),
    )


def observe(window: Window, sample: HealthSample) -> Window:
    """Take one sample of the version on trial into the evidence."""
    decisions = max(0, sample.decisions)
    confidence = sample.confidence_mean
    known = decisions if confidence is not None and math.isfinite(confidence) else 0
    return replace(
        window,
        decisions=window.decisions + decisions,
        errors=window.errors + max(0, sample.errors),
        latency_best_us=min(window.latency_best_us, sample.latency_mean_us) if decisions else window.latency_best_us,
        confidence_sum=window.confidence_sum + (known * confidence if known and confidence else 0.0),
        confidence_count=window.confidence_count + known,
        idle=sample.idle,
        samples=window.samples + 1,
    )


def judge(window: Window, now_s: float) -> tuple[Verdict, ErrorInfo | None]:
    """The verdict at `now_s`; with TAKE_BACK the reason."""
    if window.attempts >= ENOUGH_ATTEMPTS and window.error_rate > window.max_error_rate:
        return _bad(_error_text(window))
    passed_s = now_s - window.opened_s
    if passed_s < window.length_s + (0.0 if window.samples else SILENCE_S):
        return Verdict.UNDECIDED, None
    starved = window.idle and window.attempts < ENOUGH_DECISIONS
    if starved and passed_s < IDLE_WINDOWS * window.length_s:
        return Verdict.UNDECIDED, None
    if window.error_rate > window.max_error_rate:
        return _bad(_error_text(window))
    if window.decisions == 0 or starved:
        return _bad(f"{window.decisions} decisions within {passed_s:.0f} s")
    return _compare(window)


def _compare(window: Window) -> tuple[Verdict, ErrorInfo | None]:
    allowed_us = max(LATENCY_FLOOR_US, window.max_latency_ratio * window.baseline.latency_us)
    if math.isfinite(window.baseline.latency_us) and window.latency_best_us > allowed_us:
        return _bad(
            f"latency {window.latency_best_us:.0f} us in its best second; the version before needed "
            f"{window.baseline.latency_us:.0f} us, {allowed_us:.0f} us are allowed"
        )
    if window.confidence_count:
        confidence = window.confidence_sum / window.confidence_count
        if confidence < CONFIDENCE_RATIO * window.baseline.confidence:
            return _bad(f"mean confidence {confidence:.3f}, the version before had {window.baseline.confidence:.3f}")
    return Verdict.KEEP, None


def _bad(detail: str) -> tuple[Verdict, ErrorInfo]:
    return Verdict.TAKE_BACK, ErrorInfo(code=HealthError.code, detail=detail)


def _error_text(window: Window) -> str:
    return (
        f"{window.errors} errors in {window.attempts} inferences ({window.error_rate:.1%}); "
        f"{window.max_error_rate:.1%} are allowed"
    )


def _moved(mean: float, value: float | None) -> float:
    if value is None or not math.isfinite(value):
        return mean
    return value if not math.isfinite(mean) else mean + _BASELINE_WEIGHT * (value - mean)
