"""localization on board: odometer, yaw rate and reference in; distance, position and how sure they are out."""

import math
import time
from collections.abc import Callable
from typing import Any

from roadloop_agent.config import SlotTable
from roadloop_agent.drive.frames import Frame
from roadloop_agent.drive.handlers import Around, Outcome
from roadloop_agent.drive.pipeline import Model
from roadloop_models.contract.streams import POSITION
from roadloop_models.localization import Drift, Estimate, Sample, SampleReader, Session, SpeedTrace
from roadloop_models.localization.trace import PERIOD_S

_EPSILON_S = 1e-3
CONFIDENT_M = 10.0
"""A sigma of so many metres is a confidence of one half."""


class LocalizationHandler:
    """See the module. What was learned about the odometer outlives the model. A signal that is stale or out of range
    counts as missing: sigma grows, and the decision names it."""

    def __init__(self, table: SlotTable) -> None:
        self._read = SampleReader()
        self._session = Session()
        self._told_at_s = -math.inf

    def handle(self, frame: Frame, model: Model | None, around: Around) -> Outcome:
        """Without a model the session goes on with plain integration, and nothing is decided. Where the odometer is
        missing the network cannot run; what is believed is told all the same.

        Raises FailedError where the answer is not finite.
        """
        started_ns = time.perf_counter_ns()
        sample = self._read(frame.data.t_s, frame.data.values)
        traces: list[SpeedTrace] = []
        estimate = step(self._session, sample, model, traces.append)
        # An estimate is told as often as the network runs; back in time, the source's clock was set.
        early = 0.0 <= estimate.t_s - self._told_at_s < PERIOD_S - _EPSILON_S
        if model is None or (early and not estimate.inferred):
            return Outcome()
        self._told_at_s = estimate.t_s
        latency_us = (time.perf_counter_ns() - started_ns) / 1000.0
        row = position_row(
            estimate,
            sample,
            item=frame.number,
            latency_us=latency_us,
            release=model.release,
            dropped=around.dropped,
        )
        return Outcome(
            rows=[(POSITION, row)],
            decided=estimate.inferred,
            latency_us=latency_us,
            confidence=confidence(estimate),
            decision=lambda: position_line(estimate, estimate.t_s),
            seen=(traces[0].speeds_mps,) if estimate.inferred else None,
        )


def step(
    session: Session, sample: Sample, model: Model | None, saw: Callable[[SpeedTrace], None] | None = None
) -> Estimate:
    """One step of a session with a model's network; `saw` is told what it sees, where it runs.

    Raises FailedError where its answer is not finite.
    """
    if model is None:
        return session.step(sample)

    def estimate_drift(trace: SpeedTrace) -> Drift:
        if saw is not None:
            saw(trace)
        drift: Drift = model.postprocess(model.run(model.preprocess(trace)))
        return drift

    return session.step(sample, estimate_drift)


def confidence(estimate: Estimate) -> float:
    """0 to 1, from the larger of the two sigmas: 1 where it is 0, one half at CONFIDENT_M."""
    sigma_m = max(estimate.sigma_m, estimate.position_sigma_m or 0.0)
    return 1.0 / (1.0 + sigma_m / CONFIDENT_M)


def position_row(
    estimate: Estimate, sample: Sample, *, item: int, latency_us: float, release: int, dropped: int
) -> list[float]:
    """A sample of the stream position."""
    reference = sample.reference
    return [
        float(item),
        estimate.t_s,
        estimate.along_m,
        estimate.sigma_m,
        estimate.speed_mps,
        _or_nan(sample.speed_mps),
        _or_nan(None if reference is None else reference.speed_mps),
        _or_nan(estimate.east_m),
        _or_nan(estimate.north_m),
        _or_nan(estimate.position_sigma_m),
        _or_nan(estimate.heading_rad),
        _or_nan(estimate.outage_s),
        estimate.correction_mps,
        estimate.scale,
        estimate.gain,
        confidence(estimate),
        float(len(estimate.missing)),
        latency_us,
        float(release),
        float(dropped),
    ]


def position_line(estimate: Estimate, t_s: float) -> dict[str, Any]:
    """A decision as a line of JSON tells it; the position is there where the heading is known."""
    line: dict[str, Any] = {
        "t": round(t_s, 3),
        "along_m": round(estimate.along_m, 3),
        "sigma_m": round(estimate.sigma_m, 3),
        "speed_mps": round(estimate.speed_mps, 3),
        "outage_s": None if estimate.outage_s is None else round(estimate.outage_s, 3),
    }
    if estimate.east_m is not None and estimate.north_m is not None:
        assert estimate.position_sigma_m is not None and estimate.heading_rad is not None
        line |= {
            "east_m": round(estimate.east_m, 3),
            "north_m": round(estimate.north_m, 3),
            "position_sigma_m": round(estimate.position_sigma_m, 3),
            "heading_deg": round(math.degrees(estimate.heading_rad), 2),
        }
    if estimate.missing:
        line["missing"] = list(estimate.missing)
    return line


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
