"""Is a release too slow for this vehicle? Pure: times in, a verdict out.

Candidate and incumbent are timed in one process, taking turns, so that a change of the processor's clock or a busy
neighbour meets both.
"""

import statistics
from collections.abc import Sequence

from roadloop_models.errors import LatencyError

FLOOR_US = 1_000.0
"""Below this no release is too slow, whatever the incumbent needs: a ratio of microseconds is a ratio of noise."""


def typical_us(times_us: Sequence[float]) -> float:
    """Median of the faster half. In the slower half is what the machine did beside."""
    fastest = sorted(times_us)[: (len(times_us) + 1) // 2]
    return statistics.median(fastest)


def is_too_slow(candidate_us: Sequence[float], incumbent_us: Sequence[float], max_ratio: float) -> bool:
    """Whether the candidate needs more than `max_ratio` of the incumbent's time, and more than FLOOR_US."""
    return typical_us(candidate_us) > max(FLOOR_US, max_ratio * typical_us(incumbent_us))


def check_latency(candidate_us: Sequence[float], incumbent_us: Sequence[float], max_ratio: float) -> None:
    """Raises LatencyError where `is_too_slow`."""
    if is_too_slow(candidate_us, incumbent_us, max_ratio):
        raise LatencyError(
            f"{typical_us(candidate_us):.0f} us an inference on this vehicle; what runs needs "
            f"{typical_us(incumbent_us):.0f} us, and {max_ratio:g} times that is allowed"
        )
