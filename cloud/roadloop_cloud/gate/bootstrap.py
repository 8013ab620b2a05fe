"""Paired bootstrap over clusters: how sure it is that one model's losses are below another's. Pure and seeded.

Whole clusters (a track, a drive, two hours of all sensors) are drawn with replacement, both models' losses of a row
together (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 8). Where several rows tell only as much
as one independent one, so many fewer are drawn (m out of n).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from roadloop_models.tasks import Evaluation

FloatArray = npt.NDArray[np.float64]
_CELLS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Comparison:
    """Two models on the same rows; scores are mean losses or their roots, so lower is better."""

    before: float
    after: float
    gains: FloatArray
    """Before minus after of each resample, float64 [resamples]; NaN where it drew no row of these."""
    rows: int
    independent: float
    """As how many independent rows they count."""

    @property
    def gain(self) -> float:
        """By how much the second one is better."""
        return self.before - self.after

    def least_gain(self, confidence: float) -> float:
        """It is better by at least this, with that confidence (one-sided)."""
        return float(np.nanquantile(self.gains, 1.0 - confidence))

    def least_loss(self, confidence: float) -> float:
        """It is worse by at least this, with that confidence (one-sided)."""
        return -float(np.nanquantile(self.gains, confidence))


def compare(
    before: Evaluation,
    after: Evaluation,
    masks: Mapping[str, npt.NDArray[np.bool_]],
    *,
    resamples: int,
    seed: int,
) -> dict[str, Comparison]:
    """Compare two evaluations of the same rows (both have losses) on each of several sets of rows, by the same draws.

    `masks`: name -> bool [n]; none of them may be empty.
    """
    assert before.losses is not None and after.losses is not None
    first, second = before.losses.astype(np.float64), after.losses.astype(np.float64)
    count, cluster = _clusters(before)
    sums = np.concatenate(
        [
            _by_cluster(values, cluster, count)
            for mask in masks.values()
            for values in (first * mask, second * mask, mask)
        ]
    ).reshape(len(masks), 3, count)
    # One less than there are: without it the spread of few clusters comes out too small (Rao and Wu, JASA 1988).
    drawn = _drawn_sums(sums, max(round(count / before.rows_per_independent) - 1, 1), resamples, seed)
    found = {}
    for index, (name, mask) in enumerate(masks.items()):
        whole = sums[index].sum(axis=1)
        touched = int(np.count_nonzero(sums[index, 2]))
        with np.errstate(invalid="ignore", divide="ignore"):
            gains = _score(drawn[:, index, 0], drawn[:, index, 2], before.root) - _score(
                drawn[:, index, 1], drawn[:, index, 2], before.root
            )
        found[name] = Comparison(
            before=float(_score(whole[0], whole[2], before.root)),
            after=float(_score(whole[1], whole[2], before.root)),
            gains=gains,
            rows=int(mask.sum()),
            independent=touched / before.rows_per_independent,
        )
    return found


def _clusters(evaluation: Evaluation) -> tuple[int, npt.NDArray[np.int64]]:
    """(how many there are, which one each row is of)."""
    assert evaluation.losses is not None
    if evaluation.clusters is None:
        return len(evaluation.losses), np.arange(len(evaluation.losses))
    names, cluster = np.unique(evaluation.clusters, return_inverse=True)
    return len(names), cluster.reshape(-1)


def _by_cluster(values: npt.NDArray[np.generic], cluster: npt.NDArray[np.int64], count: int) -> FloatArray:
    total: FloatArray = np.bincount(cluster, weights=values.astype(np.float64), minlength=count).astype(np.float64)
    return total


def _drawn_sums(sums: FloatArray, draws: int, resamples: int, seed: int) -> FloatArray:
    """[sets, 3, clusters] -> [resamples, sets, 3]: sums over the clusters that each resample draws."""
    generator = np.random.Generator(np.random.PCG64(seed))
    count = sums.shape[2]
    flat = sums.reshape(-1, count).T
    at_once = max(_CELLS_AT_ONCE // max(count, draws), 1)
    parts = []
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        chosen = generator.integers(0, count, size=(size, draws)) + count * np.arange(size)[:, np.newaxis]
        times = np.bincount(chosen.reshape(-1), minlength=size * count).reshape(size, count)
        parts.append(times.astype(np.float64) @ flat)
    return np.concatenate(parts).reshape(resamples, *sums.shape[:2])


def _score(total: FloatArray, rows: FloatArray, root: bool) -> FloatArray:
    mean: FloatArray = total / rows
    return np.sqrt(mean) if root else mean
