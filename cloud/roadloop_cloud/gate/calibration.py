"""Whether a model is as often right as it is sure: expected calibration error (Guo et al., ICML 2017), 15 bins."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BINS = 15


@dataclass(frozen=True)
class Bin:
    """Decisions of about the same confidence."""

    confidence: float
    hit_share: float
    rows: int


def reliability(confidences: npt.NDArray[np.float32], hits: npt.NDArray[np.bool_]) -> list[Bin]:
    """Bins of equal width over 0..1 that hold any decision, the least sure first."""
    places = np.minimum((confidences * BINS).astype(np.int64), BINS - 1)
    return [
        Bin(float(confidences[mask].mean(dtype=np.float64)), float(hits[mask].mean()), int(mask.sum()))
        for mask in (places == place for place in range(BINS))
        if mask.any()
    ]


def expected_calibration_error(confidences: npt.NDArray[np.float32], hits: npt.NDArray[np.bool_]) -> float:
    """Mean distance of confidence and share of hits over the bins, by their rows; 0 without decisions."""
    found = reliability(confidences, hits)
    return sum(abs(one.confidence - one.hit_share) * one.rows for one in found) / max(len(hits), 1)
