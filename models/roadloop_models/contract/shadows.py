"""Shadow reports are sums: how they add up, over runs of a candidate and over vehicles."""

from collections.abc import Sequence

import msgspec

from roadloop_models.contract.messages import ReleaseRef, ShadowReport

NUMBERS = (
    "frames",
    "disagreed",
    "errors",
    "skipped",
    "confidence_frames",
    "confidence_delta_sum",
    "confidence_delta_square_sum",
    "latency_log_ratio_sum",
    "latency_log_ratio_square_sum",
)
COUNTS = ("latency_counts", "incumbent_latency_counts")


def add(one: ShadowReport, other: ShadowReport) -> ShadowReport:
    """The sums of both; release, state and error are those of `other`."""
    sums = {name: getattr(one, name) + getattr(other, name) for name in NUMBERS}
    counts = {name: add_counts(getattr(one, name), getattr(other, name)) for name in COUNTS}
    return msgspec.structs.replace(other, **sums, **counts)


def add_counts(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    """Place by place; the shorter one has zeros behind its end."""
    longer, shorter = sorted((one, other), key=len, reverse=True)
    return tuple(count + (shorter[place] if place < len(shorter) else 0) for place, count in enumerate(longer))


def same_content(one: ReleaseRef, other: ReleaseRef) -> bool:
    """Whether both name the same signed content; a version is only a name."""
    return (one.task, one.release, one.manifest_sha256) == (other.task, other.release, other.manifest_sha256)
