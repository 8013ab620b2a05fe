"""What the comparisons of one shadow add up to. Pure."""

import math
from dataclasses import dataclass, field

from roadloop_models.contract.messages import LOG_RATIO_MAX, ReleaseRef, ShadowReport

PLACES = 32
"""Of a latency's power of two; the last takes whatever is longer than an hour."""


@dataclass
class Sums:
    """See `ShadowReport`, whose fields these are."""

    frames: int = 0
    disagreed: int = 0
    errors: int = 0
    confidence_frames: int = 0
    confidence_delta_sum: float = 0.0
    confidence_delta_square_sum: float = 0.0
    latency_log_ratio_sum: float = 0.0
    latency_log_ratio_square_sum: float = 0.0
    latency_counts: list[int] = field(default_factory=list)
    incumbent_latency_counts: list[int] = field(default_factory=list)

    def report(self, ref: ReleaseRef, skipped: int) -> ShadowReport:
        """As it is reported; `skipped` frames were not given to the candidate."""
        fields = vars(self) | {
            "latency_counts": tuple(self.latency_counts),
            "incumbent_latency_counts": tuple(self.incumbent_latency_counts),
        }
        return ShadowReport(ref=ref, state="running", skipped=skipped, **fields)

    def compare(self, agrees: bool, latency_us: float, incumbent_latency_us: float) -> None:
        """Both decided about a frame."""
        self.frames += 1
        self.disagreed += not agrees
        ratio = math.log(max(latency_us, 1.0) / max(incumbent_latency_us, 1.0))
        ratio = min(max(ratio, -LOG_RATIO_MAX), LOG_RATIO_MAX)
        self.latency_log_ratio_sum += ratio
        self.latency_log_ratio_square_sum += ratio**2
        count(self.latency_counts, latency_us)
        count(self.incumbent_latency_counts, incumbent_latency_us)

    def compare_confidence(self, delta: float) -> None:
        """The candidate's confidence minus the incumbent's, both 0 to 1."""
        self.confidence_frames += 1
        self.confidence_delta_sum += delta
        self.confidence_delta_square_sum += delta**2


def count(counts: list[int], latency_us: float) -> None:
    """Count a latency at the place of its power of two; one below 2 us goes to the first."""
    place = min(max(math.frexp(latency_us)[1] - 1, 0), PLACES - 1)
    counts.extend([0] * (place + 1 - len(counts)))
    counts[place] += 1
