"""What follows from an inference: the telemetry row, and whether the frame is worth sending. Pure."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from roadloop_models.contract.streams import SPEEDS_PER_SAMPLE
from roadloop_models.preprocess import FloatArray

HORIZON_STEPS = (2, 5, 8, 11)
"""Which steps of a forecast are 15, 30, 45 and 60 minutes ahead."""


class SignDecision(NamedTuple):
    """What the vehicle saw."""

    class_id: int
    label: str
    confidence: float
    margin: float


def sign_decision(logits: FloatArray, class_id: int, label: str, confidence: float) -> SignDecision:
    """Add the margin: the best minus the second-best probability, from the logits [classes]."""
    if len(logits) < 2:
        return SignDecision(class_id, label, confidence, confidence)
    *_, second, best = sorted(logits.tolist())  # for a few dozen classes quicker than numpy's partition
    return SignDecision(class_id, label, confidence, confidence * (1.0 - math.exp(second - best)))


def sign_row(
    decision: SignDecision, *, item: int, latency_us: float, release: int, captured: bool, dropped: int
) -> list[float]:
    """A sample of the stream sign-decision."""
    return [
        float(item),
        float(decision.class_id),
        decision.confidence,
        decision.margin,
        latency_us,
        float(release),
        float(captured),
        float(dropped),
    ]


def speed_observations(step: int, observed_mph: FloatArray) -> Iterator[list[float]]:
    """Samples of the stream road-speed: one step, SPEEDS_PER_SAMPLE sensors each.

    The last sample begins early enough to be full: it repeats sensors, which costs less on the wire than columns with
    holes. Fewer sensors than that are padded with NaN.
    """
    speeds = observed_mph.tolist()
    count = max(len(speeds), SPEEDS_PER_SAMPLE)
    speeds += [math.nan] * (count - len(speeds))
    for start in range(0, count, SPEEDS_PER_SAMPLE):
        first = min(start, count - SPEEDS_PER_SAMPLE)
        yield [float(step), float(first), *speeds[first : first + SPEEDS_PER_SAMPLE]]


def speed_row(
    forecast_mph: FloatArray, observed_mph: FloatArray, *, step: int, latency_us: float, release: int
) -> list[float]:
    """A sample of the stream speed-decision, from a forecast [sensors, horizon] and what was just observed."""
    share = np.full(len(forecast_mph), 1.0 / len(forecast_mph), dtype=np.float32)
    means = (share @ forecast_mph).tolist()  # a dot product: five times quicker than four means of columns
    observed = float(share @ observed_mph)
    return [float(step), *(means[index] for index in HORIZON_STEPS), observed, latency_us, float(release)]


def wants_capture(confidence: float, count: int, below_confidence: float, every: int) -> bool:
    """Whether the `count`-th frame of a slot (from 1) is worth sending: unsure about it, or its turn."""
    return confidence < below_confidence or (every > 0 and count % every == 0)


class ByteBudget:
    """So many bytes a second, saved up for at most `burst_s` seconds; one item may overdraw it."""

    def __init__(self, bytes_per_s: int, burst_s: float = 10.0) -> None:
        self._bytes_per_s = bytes_per_s
        self._limit = bytes_per_s * burst_s
        self._left = self._limit
        self._at_s: float | None = None

    def allows(self, now_s: float) -> bool:
        """Whether anything is left at `now_s` (monotonic)."""
        if self._at_s is not None:
            self._left = min(self._limit, self._left + (now_s - self._at_s) * self._bytes_per_s)
        self._at_s = now_s
        return self._left > 0

    def spend(self, size_bytes: int) -> None:
        """Take the bytes of one item."""
        self._left -= size_bytes
