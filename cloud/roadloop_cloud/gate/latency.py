"""How long an inference of two model files takes here, turn by turn, so that a change of clock speed meets both."""

import statistics
from collections.abc import Callable

from roadloop_cloud.gate.bounds import Bounds
from roadloop_cloud.gate.figures import GateResult
from roadloop_models.bundle import Bundle
from roadloop_models.bundle.golden import golden_inputs
from roadloop_models.runners import open_runner

ROUNDS = 20
PER_ROUND = 10


def paired_latency_us(before: Bundle, after: Bundle, key: str, clock: Callable[[], int]) -> tuple[float, float]:
    """Median microseconds of an inference on golden inputs: (before, after). `clock` is in nanoseconds."""
    runners, inputs, times = [], [], ([], [])  # type: ignore[var-annotated]
    try:
        for bundle in (before, after):
            variant = bundle.variant_by_key(key)
            runners.append(open_runner(bundle, variant))
            inputs.append(golden_inputs(bundle.manifest.golden, tuple(spec.shape for spec in variant.inputs))[0])
        for _ in range(ROUNDS):
            for runner, values, into in zip(runners, inputs, times, strict=True):
                for _ in range(PER_ROUND):
                    begin_ns = clock()
                    runner.run(values)
                    into.append(clock() - begin_ns)
    finally:
        for runner in runners:
            runner.close()
    return statistics.median(times[0]) / 1000, statistics.median(times[1]) / 1000


def judge_latency(key: str, before_us: float, after_us: float, bounds: Bounds) -> GateResult:
    """Whether the candidate is not much slower than the incumbent, here."""
    most_us = bounds.latency_ratio * before_us + bounds.latency_slack_us
    return GateResult(
        gate=f"latency {key}",
        passed=after_us <= most_us,
        detail=f"{after_us:.0f} us after {before_us:.0f} us, in turns on this machine; bound {most_us:.0f}",
    )
