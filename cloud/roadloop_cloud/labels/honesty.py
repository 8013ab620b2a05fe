"""Vehicles whose labels lie far outside their cohort. Pure.

What a vehicle measured after its forecasts, what its GNSS says of its odometer, and whether its decisions are what
people and teachers say: each is compared with what the same is for vehicles of the same hardware, as sketches are
(drift/decide.py).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from roadloop_cloud.captures import Captured, Decision
from roadloop_cloud.drift.decide import Rules, odd_ones
from roadloop_cloud.labels.words import ClassValue, MeasuredValue, Verdict

CONTRADICTED = "decisions that labels contradict"
_BOOKKEEPING = ("last_seq", "seconds")
"""Quantities of a label that say nothing of the road."""
_STEPS_OF_BLOCK = {"traffic-speed": 12, "traffic-flow": 12}
"""Samples that count as one: the steps of an hour are much alike. Elsewhere each stands for itself."""
_QUANTILES = np.linspace(0.0, 1.0, 33)


@dataclass(frozen=True)
class Heard:
    """One number that a label says of what a vehicle sent."""

    vehicle: str
    quantity: str
    value: float
    block: tuple[str | int, ...]
    """Values of one block count as one."""


@dataclass(frozen=True)
class Liar:
    """A vehicle whose labels say what those of no other of its cohort say."""

    vehicle: str
    hardware: str
    quantity: str
    ks: float
    """From the median vehicle of its cohort."""
    others_ks: float
    mean: float
    others_mean: float
    """The median vehicle's."""


def measured(verdicts: Iterable[Verdict]) -> Iterator[Heard]:
    """What labels measured of samples."""
    for verdict in verdicts:
        word = verdict.word
        if word.about is None or not isinstance(word.value, MeasuredValue):
            continue
        _, vehicle, boot, seq = word.about.split("/")
        block = (boot, int(seq) // _STEPS_OF_BLOCK.get(word.task, 1))
        for quantity, value in word.value.values.items():
            if quantity not in _BOOKKEEPING:
                yield Heard(vehicle, quantity, value, block)


def contradicted(
    items: Iterable[Captured],
    verdicts: Mapping[str, Verdict],
    decisions: Mapping[str, Decision],
    classes: Sequence[str],
) -> Iterator[Heard]:
    """1 where a label calls an item otherwise than its vehicle did, else 0. One class in one drive is one thing."""
    for item in items:
        verdict, decision = verdicts.get(item.sha256), decisions.get(item.sha256)
        if verdict is None or decision is None or not isinstance(verdict.word.value, ClassValue):
            continue
        name = verdict.word.value.name
        known = 0 <= decision.class_id < len(classes)
        value = float(not known or classes[decision.class_id] != name)
        yield Heard(item.vehicle, CONTRADICTED, value, (item.boot, name))


def liars(heard: Iterable[Heard], hardware: Mapping[str, str], rules: Rules, least_ks: float) -> list[Liar]:
    """Those that are odd in anything, each once. `hardware`: vehicle -> its hardware; others are not judged."""
    gathered: dict[tuple[str, str], dict[str, list[Heard]]] = defaultdict(lambda: defaultdict(list))
    for one in heard:
        if one.vehicle in hardware and np.isfinite(one.value):
            gathered[hardware[one.vehicle], one.quantity][one.vehicle].append(one)
    alpha = rules.alpha(sum(len(by_vehicle) for by_vehicle in gathered.values()))
    found: dict[str, Liar] = {}
    for (kind, quantity), by_vehicle in sorted(gathered.items()):
        names = sorted(by_vehicle)
        values = [np.array([one.value for one in by_vehicle[name]]) for name in names]
        edges = np.unique(np.concatenate([np.quantile(own, _QUANTILES) for own in values]))
        counts = np.stack([np.bincount(np.searchsorted(edges, own), minlength=len(edges) + 1) for own in values])
        worth = np.array([len({one.block for one in by_vehicle[name]}) for name in names], dtype=np.float64)
        means = [float(own.mean()) for own in values]
        for place, ks, usual in odd_ones(counts, worth, least_ks=least_ks, alpha=alpha):
            liar = Liar(names[place], kind, quantity, ks, usual, means[place], float(np.median(means)))
            found.setdefault(liar.vehicle, liar)
    return list(found.values())
