"""Whether a signal has changed: a window's distribution against the release's, under a budget of false alarms.

The distance is Kolmogorov-Smirnov's, over the reference's bins. Chance alone exceeds `distance.ks_bound` with a
probability of at most alpha; alpha is the budget of a window by the number of looks in it and of signals and cohorts
watched (Bonferroni), so the expected number of false alarms stays within the budget however looks, signals and
vehicles depend on each other. What is counted is independent rows: rows by the reference's design effect. Pure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from roadloop_cloud.drift.cohorts import Cohort, IntArray, Merged, Watched
from roadloop_models.sketches import distance
from roadloop_models.sketches.reference import SignalReference
from roadloop_models.sketches.signals import signal_of


@dataclass(frozen=True)
class Rules:
    """How drift is decided; `roadloop.toml` says it under `[drift]`."""

    look_s: float = 3600.0
    """How often is looked: as often as vehicles send a sketch."""
    window_looks: int = 24
    """A window is so many looks; the day of traffic comes round in it."""
    false_alarms: float = 0.01
    """How many false alarms are expected at most in a window, over all that is watched."""
    least_ks: float = 0.15
    """A smaller change than this is none to act on, however sure it is."""

    def alpha(self, watched: int) -> float:
        """What one look at one of `watched` signals may err by."""
        return self.false_alarms / (self.window_looks * max(watched, 1))


@dataclass(frozen=True)
class Finding:
    """One signal of one cohort in one window."""

    cohort: Cohort
    signal: str
    vehicles: int
    rows: int
    independent_rows: float
    ks: float
    threshold: float
    psi: float
    wasserstein: float
    """In the signal's unit."""
    mean: float
    reference_mean: float
    since_look: int
    """The first look of the stretch that differs most."""

    @property
    def drifted(self) -> bool:
        """Whether it has changed."""
        return self.ks > self.threshold


def judge(watched: Watched, merged: Merged, reference: SignalReference, rules: Rules, alpha: float) -> Finding:
    """Compare a window with the reference."""
    cohort, signal = watched.cohort, watched.signal
    counts = merged.counts.sum(axis=(0, 1))
    rows = independent_rows(cohort.task, signal, merged.counts, reference)
    quantiles = merged.whole.quantiles(len(reference.quantiles))
    return Finding(
        cohort=cohort,
        signal=signal,
        vehicles=len(merged.vehicles),
        rows=int(counts.sum()),
        independent_rows=rows,
        ks=distance.ks(reference.counts, counts) if counts.sum() else 0.0,
        threshold=threshold(reference, rows, rules, alpha),
        psi=distance.psi(reference.counts, counts),
        wasserstein=math.nan if quantiles is None else distance.wasserstein(reference.quantiles, quantiles),
        mean=merged.whole.mean,
        reference_mean=reference.mean,
        since_look=merged.looks[change_point(merged.counts.sum(axis=0), reference)],
    )


def threshold(reference: SignalReference, independent: float, rules: Rules, alpha: float) -> float:
    """The distance above which a window worth so many independent rows has changed; above 1 it cannot be said."""
    return max(rules.least_ks, distance.ks_bound(reference.rows / reference.design_effect, independent, alpha))


def independent_rows(task: str, signal: str, counts: IntArray, reference: SignalReference) -> float:
    """What the counts [vehicles, looks, bins] are worth. Where vehicles see the same thing, only one of them counts."""
    of_vehicles = counts.sum(axis=(1, 2))
    known = signal_of(task, signal)
    shared = known is not None and known.shared
    rows = of_vehicles.max(initial=0) if shared else of_vehicles.sum()
    return float(rows) / reference.design_effect


def change_point(counts: IntArray, reference: SignalReference) -> int:
    """Since which look [looks, bins] the rest differs most: where distance times root of rows is largest.

    The usual maximum of a cumulative sum (Hinkley 1970), with the reference as what was before.
    """
    later = counts[::-1].cumsum(axis=0)[::-1]  # rows from each look to the end
    rows = later.sum(axis=1)
    apart = np.abs(distance.cumulative(later) - distance.cumulative(reference.counts)).max(axis=1)
    return int(np.argmax(apart * np.sqrt(rows)))


@dataclass(frozen=True)
class Past:
    """A window of the past: the look that it ends with, its distance, and above which it would have been an alarm."""

    look: int
    ks: float
    threshold: float


def history(watched: Watched, merged: Merged, reference: SignalReference, rules: Rules, alpha: float) -> list[Past]:
    """Every window that anything was seen in, as far back as `merged` goes."""
    past = []
    for end in range(len(merged.looks)):
        window = merged.counts[:, max(end - rules.window_looks + 1, 0) : end + 1]
        if window.sum():
            worth = independent_rows(watched.cohort.task, watched.signal, window, reference)
            apart = distance.ks(reference.counts, window.sum(axis=(0, 1)))
            past.append(Past(merged.looks[end], apart, threshold(reference, worth, rules, alpha)))
    return past


@dataclass(frozen=True)
class Outlier:
    """A vehicle that says what no other of its cohort says."""

    vehicle: str
    cohort: Cohort
    signal: str
    ks: float
    """From the median vehicle of its cohort."""
    others_ks: float
    """The median vehicle's own distance from it."""


LEAST_VEHICLES = 4
"""In a smaller cohort nobody can say who is the odd one."""
MOST_SHARE = 1 / 3
"""Where more vehicles than that are odd, it is the cohort that has changed."""
TIMES_OTHERS = 3.0
_MANY = 1e12
"""Rows that the median of a cohort is taken to be worth: a vehicle's own are what is uncertain."""


def outliers(
    watched: Watched, merged: Merged, reference: SignalReference, *, least_ks: float, alpha: float
) -> list[Outlier]:
    """Vehicles whose distribution lies far outside their cohort's.

    Each is compared with the median of all vehicles' distribution functions, which liars that are fewer than half do
    not move, however many rows they claim to have seen.
    """
    counts = merged.counts.sum(axis=1)
    odd = odd_ones(counts, counts.sum(axis=1) / reference.design_effect, least_ks=least_ks, alpha=alpha)
    return [Outlier(merged.vehicles[place], watched.cohort, watched.signal, ks, usual) for place, ks, usual in odd]


def odd_ones(
    counts: IntArray, worth: npt.NDArray[np.float64], *, least_ks: float, alpha: float
) -> list[tuple[int, float, float]]:
    """(place, distance from the median, the median vehicle's distance) of vehicles that are far outside their cohort.

    `counts` [vehicles, bins]; `worth` [vehicles]: how many independent rows those of each are.
    """
    heard = np.flatnonzero(counts.sum(axis=1))
    if len(heard) < LEAST_VEHICLES:
        return []
    shares = distance.cumulative(counts[heard])
    apart = np.abs(shares - np.median(shares, axis=0)).max(axis=1)
    usual = float(np.median(apart))
    bounds = [distance.ks_bound(_MANY, own, alpha) for own in worth[heard].tolist()]
    odd = [
        (int(vehicle), float(ks), usual)
        for vehicle, ks, bound in zip(heard, apart, bounds, strict=True)
        if ks > max(least_ks, bound, TIMES_OTHERS * usual)
    ]
    return odd if len(odd) <= MOST_SHARE * len(heard) else []


def worst(findings: Sequence[Finding]) -> Finding | None:
    """The one that exceeds its threshold most."""
    return max(findings, key=lambda finding: finding.ks / finding.threshold, default=None)
