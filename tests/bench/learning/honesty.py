"""Vehicles set apart by what labels say of their decisions: how often an honest one is, and whether a lying one is.

Two hundred weeks of made fleets that drive past real signs. Vehicles run the starter classifier and decide on tracks of
gtsrb32's training images that it was not trained on; the labels are the published ones, so honest vehicles are
contradicted as often as that model errs, all pictures of a sign together. A liar's decisions are all contradicted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from roadloop_cloud.drift.decide import Rules
from roadloop_cloud.labels.honesty import CONTRADICTED, Heard, liars
from roadloop_models.packaged import packaged_bundles
from roadloop_models.tasks.sign_data import load_training_signs
from tests.bench.figures import Figure, Result, Skipped
from tests.bench.learning.context import Context
from tests.bench.learning.labels import shares_of

TASK = "traffic-sign"
WEEKS = 200
FLEETS = (4, 10, 16)
DRIVES, SIGNS = 4, 6
"""Of a vehicle in a week, and that it passes on each; the cloud looks at the labels after every drive."""
ROUTE_CLASSES = 6
"""A vehicle that keeps to its route passes signs of so many classes only; the starter errs at some of them always."""
DOUBTFUL = 0.25
"""The share of all pictures that people are asked about, where the most doubtful come first."""
LEAST_KS = 0.5
"""The `outlier_ks` of a workspace that sets no other."""
LIAR = "car-0"
_RULES = Rules()
_figure = partial(Figure, command="scripts/bench learning")


@dataclass(frozen=True)
class Signs:
    """What vehicles may pass: for each track its class, and for each of its labelled pictures 1 where the decision is
    contradicted, else 0."""

    classes: npt.NDArray[np.int64]
    contradicted: tuple[tuple[float, ...], ...]


def figures(context: Context) -> Iterator[Result]:
    """Shares of honest vehicles set apart and of liars found, by the size of the fleet and what is labelled."""
    if context.data is None:
        yield Skipped("honest and lying vehicles", "ROADLOOP_DATA names no data")
        return
    signs, doubtful = _signs(context.data)
    said = np.concatenate(signs.contradicted)
    yield _figure("label_honest_contradicted", 100 * float(said.mean()), "% of an honest fleet's decisions")
    for size in FLEETS:
        yield from _of_fleet(signs, size, f"of_{size}", least_found=95.0)
    yield from _of_fleet(signs, 10, "of_10_on_fixed_routes", ROUTE_CLASSES)
    yield from _of_fleet(doubtful, 10, "of_10_most_doubtful_labelled")


def _signs(data: Path) -> tuple[Signs, Signs]:
    """All pictures labelled, and the most doubtful of them."""
    rows = load_training_signs(data, "rest")
    shares = shares_of(packaged_bundles("starter")[TASK], rows.images)
    wrong, sure = shares.argmax(axis=1) != rows.labels, shares.max(axis=1)
    tracks, first, track = np.unique(rows.tracks, return_index=True, return_inverse=True)

    def labelled(mask: npt.NDArray[np.bool_]) -> Signs:
        pictures = (np.flatnonzero(mask & (track == number)) for number in range(len(tracks)))
        return Signs(rows.labels[first], tuple(tuple(wrong[of].astype(float).tolist()) for of in pictures))

    return labelled(np.ones(len(rows), dtype=bool)), labelled(sure < np.quantile(sure, DOUBTFUL))


def _of_fleet(
    signs: Signs, size: int, name: str, classes: int | None = None, *, least_found: float | None = None
) -> Iterator[Result]:
    honest = [_set_apart(signs, size, classes, np.random.default_rng(week), liar=None) for week in range(WEEKS)]
    lying = [_set_apart(signs, size, classes, np.random.default_rng(week), liar=LIAR) for week in range(WEEKS)]
    rate, found = sum(map(len, honest)) / (WEEKS * size), [week[LIAR] for week in lying if LIAR in week]
    of = f"% of {WEEKS * size} honest vehicles' weeks"
    yield _figure(f"label_honest_set_apart_{name}", 100 * rate, of, bar=100 * _RULES.false_alarms)
    yield _figure(
        f"label_liars_found_{name}",
        100 * len(found) / WEEKS,
        f"% of {WEEKS} weeks with one liar",
        bar=least_found,
        direction="at least",
    )
    if found:
        yield _figure(f"label_liars_found_after_{name}", float(np.median(found)), f"drives past {SIGNS} signs (median)")


def _set_apart(
    signs: Signs, size: int, classes: int | None, rng: np.random.Generator, liar: str | None
) -> Mapping[str, int]:
    """Vehicle -> after how many drives of its week it was set apart."""
    fleet = [f"car-{number}" for number in range(size)]
    passed = {vehicle: _passed(signs, classes, rng) for vehicle in fleet}
    heard: list[Heard] = []
    apart: dict[str, int] = {}
    for drive in range(DRIVES):
        for vehicle in fleet:
            for sign in passed[vehicle][drive]:
                block = (drive, int(signs.classes[sign]))
                for said in signs.contradicted[sign]:
                    heard.append(Heard(vehicle, CONTRADICTED, 1.0 if vehicle == liar else said, block))
        believed = {vehicle: "board" for vehicle in fleet if vehicle not in apart}
        apart |= {one.vehicle: drive + 1 for one in liars(heard, believed, _RULES, LEAST_KS)}
    return apart


def _passed(signs: Signs, classes: int | None, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Tracks [DRIVES, SIGNS]: each once, where there are enough of the route's classes."""
    known = np.unique(signs.classes)
    route = known if classes is None else rng.choice(known, classes, replace=False)
    there = np.flatnonzero(np.isin(signs.classes, route))
    return rng.choice(there, (DRIVES, SIGNS), replace=len(there) < DRIVES * SIGNS)
