"""How often the gate lets a candidate pass that is no better, on real rows whose dependence is real too."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from roadloop_cloud.gate.bootstrap import compare
from roadloop_cloud.gate.bounds import DEFAULTS, bounds_of
from roadloop_cloud.gate.service import Gate, Judged
from roadloop_cloud.training.evaluate import evaluate_variant
from roadloop_models.bundle import Bundle, Manifest
from roadloop_models.packaged import packaged_bundles
from roadloop_models.tasks import Evaluation
from tests.bench.figures import Figure, Result, Skipped
from tests.bench.learning.context import Context
from tests.fakes.shuffled_signs import shuffled, starter, trained_on, unseen_half

TASK, VARIANT = "traffic-speed", "onnx-int8"
PAIRS = 200
SEED = 20261123
BAR_PERCENT = 10.0
"""Twice what the gate's confidence of 95 % says: it has sixteen stretches of two hours to go by."""
_figure = partial(Figure, command="scripts/bench learning")


def figures(context: Context) -> Iterator[Result]:
    """The share of accepted candidates among pairs of equal models.

    The factory's and the starter's errors are exchanged at random, two hours of all sensors at a time: neither side of
    such a pair is better, but the two differ much, and stretches of time hang together as they do.
    """
    if context.data is None:
        yield Skipped("false acceptances of the gate", "ROADLOOP_DATA names no data")
        return
    factory = packaged_bundles()[TASK]
    starter = factory.parent / "starter" / TASK
    first, second = (_evaluation(path, context.data) for path in (factory, starter))
    generator = np.random.Generator(np.random.PCG64(SEED))
    accepted = sum(_accepts(*_exchanged(first, second, generator)) for _ in range(PAIRS))
    yield _figure(f"gate_false_acceptance_{TASK}", 100 * accepted / PAIRS, f"% of {PAIRS} equal pairs", bar=BAR_PERCENT)
    yield _figure(
        f"gate_finds_the_better_{TASK}", float(_accepts(second, first)), "of 1", bar=1.0, direction="at least"
    )


def _shuffled(context: Context) -> Iterator[Result]:
    """Whether a candidate is refused that was taught to call stop signs anything else, and an honest one accepted."""
    if context.data is None or not context.full:
        yield Skipped("shuffled labels at the gate", "two trainings: --full")
        return
    honest = unseen_half(context.data)
    gate = Gate(
        evaluate_variant, bounds_of, _no_parent, Path, dict, lambda before, after, key: (0.0, 0.0)
    )  # neither has a snapshot, and latency is no matter of labels
    with tempfile.TemporaryDirectory() as scratch:
        sides = {}
        folders = {name: Path(scratch) / name for name in ("starter", "honest", "shuffled")}
        for name, folder in folders.items():
            rows = {"honest": honest, "shuffled": shuffled(honest)}.get(name)
            bundle = Bundle.open(starter()) if rows is None else trained_on(context.data, folder, name, rows)
            figures = gate.examine(bundle, context.data, folder / "seen", lambda text, done: None)
            sides[name] = Judged(bundle, figures, folder / "seen")
        for name, wanted in (("honest", True), ("shuffled", False)):
            verdict = gate.judge(sides["starter"], sides[name], context.data)
            outcome = "accepted" if wanted else "refused"
            value = float(verdict.accepted is wanted)
            yield _figure(f"gate_{name}_labels_{outcome}", value, "of 1", bar=1.0, direction="at least")


def _no_parent(task: str, version: str) -> Manifest:
    return Bundle.open(starter()).manifest


def _evaluation(path: Path, data: Path) -> Evaluation:
    bundle = Bundle.open(path)
    return evaluate_variant(bundle, bundle.variant_by_key(VARIANT), data)


def _exchanged(first: Evaluation, second: Evaluation, generator: np.random.Generator) -> tuple[Evaluation, Evaluation]:
    assert first.losses is not None and second.losses is not None and first.clusters is not None
    exchange = (generator.random(int(first.clusters.max()) + 1) < 0.5)[first.clusters]
    return (
        replace(first, losses=np.where(exchange, second.losses, first.losses)),
        replace(second, losses=np.where(exchange, first.losses, second.losses)),
    )


def _accepts(incumbent: Evaluation, candidate: Evaluation) -> bool:
    """What the gate `better` says, at its default bounds."""
    bounds = DEFAULTS[TASK]
    assert incumbent.losses is not None
    everything = {"all": np.ones(len(incumbent.losses), dtype=bool)}
    found = compare(incumbent, candidate, everything, resamples=bounds.resamples, seed=bounds.seed)["all"]
    return found.gain > bounds.margin and found.least_gain(bounds.confidence) > bounds.margin
