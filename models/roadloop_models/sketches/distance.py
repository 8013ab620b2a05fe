"""How far two distributions are apart: PSI, Kolmogorov-Smirnov, Wasserstein; and what chance may do to the second.

All but Wasserstein compare counts over the same bins.
"""

import math

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def psi(reference: npt.ArrayLike, window: npt.ArrayLike) -> float:
    """Population stability index: sum (w - r) ln(w / r). 0.1 is called small, 0.25 large. Half a row is added to each
    bin, so that an empty one weighs what it is worth."""
    expected, found = np.asarray(reference, dtype=np.float64) + 0.5, np.asarray(window, dtype=np.float64) + 0.5
    expected, found = expected / expected.sum(), found / found.sum()
    return float(((found - expected) * np.log(found / expected)).sum())


def ks(reference: npt.ArrayLike, window: npt.ArrayLike) -> float:
    """Largest difference of the two distribution functions at the edges of the bins, 0 to 1."""
    return float(np.abs(cumulative(reference) - cumulative(window)).max())


def cumulative(counts: npt.ArrayLike) -> FloatArray:
    """The share of rows up to each edge [bins]; the last is 1. `counts` [..., bins]."""
    table = np.asarray(counts, dtype=np.float64)
    shares: FloatArray = table.cumsum(axis=-1) / np.maximum(table.sum(axis=-1, keepdims=True), 1e-300)
    return shares


def wasserstein(reference_quantiles: npt.ArrayLike, window_quantiles: npt.ArrayLike) -> float:
    """Mean distance of the quantiles at the same equal steps, in the signal's own unit (Wasserstein-1)."""
    gap = np.abs(np.asarray(reference_quantiles, dtype=np.float64) - np.asarray(window_quantiles, dtype=np.float64))
    return float(np.trapezoid(gap, dx=1.0 / (gap.size - 1)))


def ks_bound(reference_rows: float, window_rows: float, alpha: float) -> float:
    """What the distance of two samples of one distribution exceeds with a probability of at most `alpha`.

    Dvoretzky-Kiefer-Wolfowitz with Massart's constant, at the number of independent rows that both together are worth
    (a two-sample form of it: Wei and Dudley 2012). Infinite without rows.
    """
    if reference_rows <= 0 or window_rows <= 0:
        return math.inf
    together = reference_rows * window_rows / (reference_rows + window_rows)
    return math.sqrt(math.log(2.0 / alpha) / (2.0 * together))
