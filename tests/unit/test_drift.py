"""When a change is drift, who lies, and what neither is."""

import numpy as np
import pytest

from roadloop_cloud.drift.cohorts import Cohort, Member, Merged, Part, Told, Watched, gather, merge
from roadloop_cloud.drift.decide import Rules, change_point, history, judge, outliers
from roadloop_models.contract.messages import ReleaseRef, SignalSketch, Sketch
from roadloop_models.sketches.reference import SignalReference, make_reference
from roadloop_models.sketches.signals import Signal
from roadloop_models.sketches.sketch import ValueSketch

COHORT = Cohort("traffic-sign", "sign", 1, "x86-64")
RULES = Rules(false_alarms=0.01)
ALPHA = RULES.alpha(10)
REF = ReleaseRef(task="traffic-sign", release=1, version="1-a", manifest_sha256="5f" * 32)


def reference(block: int = 10, rows: int = 20_000, seed: int = 0) -> SignalReference:
    """Of a standard normal signal whose rows come in blocks of equal values."""
    generator = np.random.default_rng(seed)
    values = np.repeat(generator.normal(size=rows // block), block)
    watched = (Signal("brightness", "made", block="track"),)
    made = make_reference("traffic-sign", values[:, np.newaxis], {"track": np.arange(len(values)) // block}, watched)
    return made.signals["brightness"]


REFERENCE = reference()


def part(vehicle: str, look: int, values: np.ndarray) -> Part:
    sketch = ValueSketch("brightness", REFERENCE.edges)
    sketch.add(values)
    return Part(vehicle, look, sketch.message())


def draw(generator: np.random.Generator, rows: int, block: int = 10, shift: float = 0.0) -> np.ndarray:
    return np.repeat(generator.normal(shift, size=rows // block), block)


def merged_of(parts: list[Part], looks: int = 24) -> tuple[Watched, Merged]:
    watched = Watched(COHORT, "brightness", parts)
    merged = merge(watched, REFERENCE, 0, looks - 1)
    assert merged is not None
    return watched, merged


def fleet(seed: int, vehicles: int = 5, rows: int = 200, shift: float = 0.0, since: int = 0) -> list[Part]:
    generator = np.random.default_rng(seed)
    return [
        part(f"van-{vehicle}", look, draw(generator, rows, shift=shift if look >= since else 0.0))
        for vehicle in range(vehicles)
        for look in range(24)
    ]


def test_an_unchanged_fleet_raises_nothing_and_a_changed_one_does() -> None:
    same = judge(*merged_of(fleet(1)), REFERENCE, RULES, ALPHA)
    moved = judge(*merged_of(fleet(2, shift=0.6)), REFERENCE, RULES, ALPHA)
    assert not same.drifted
    assert moved.drifted
    assert moved.psi > 0.25
    assert moved.mean - moved.reference_mean == pytest.approx(0.6, abs=0.1)
    assert moved.wasserstein == pytest.approx(0.6, abs=0.1)


def test_rows_of_one_block_are_not_taken_for_evidence() -> None:
    """Thirty frames of one track are one thing seen: without the design effect this window would be an alarm."""
    generator = np.random.default_rng(4)
    parts = [part("van-1", look, draw(generator, 100, block=100)) for look in range(6)]
    independent = merged_of(parts)
    worth_one_each = reference(block=100, rows=200_000)
    counts_all = make_reference(
        "traffic-sign",
        np.random.default_rng(5).normal(size=(20_000, 1)),
        {"track": np.arange(20_000)},
        (Signal("brightness", "made", block="track"),),
    ).signals["brightness"]
    sensitive = Rules(least_ks=0.0)
    loud = merge(independent[0], counts_all, 0, 23)
    assert loud is not None
    assert judge(independent[0], loud, counts_all, sensitive, ALPHA).drifted
    quiet = merge(independent[0], worth_one_each, 0, 23)
    assert quiet is not None
    assert not judge(independent[0], quiet, worth_one_each, sensitive, ALPHA).drifted


def test_a_tiny_change_is_no_drift_however_sure_it_is() -> None:
    watched, merged = merged_of(fleet(3, vehicles=8, rows=6000, shift=0.12))
    finding = judge(watched, merged, REFERENCE, Rules(least_ks=0.0), ALPHA)
    assert finding.drifted
    assert not judge(watched, merged, REFERENCE, RULES, ALPHA).drifted


@pytest.mark.parametrize("since", [3, 12, 20])
def test_the_change_is_dated(since: int) -> None:
    _, merged = merged_of(fleet(since, shift=1.0, since=since))
    assert abs(change_point(merged.counts.sum(axis=0), REFERENCE) - since) <= 1


def test_the_distance_over_time_rises_with_the_change() -> None:
    generator = np.random.default_rng(6)
    parts = [part("van-1", look, draw(generator, 500, shift=1.0 if look >= 48 else 0.0)) for look in range(72)]
    past = history(*merged_of(parts, looks=72), REFERENCE, RULES, ALPHA)
    assert [one.look for one in past] == list(range(72))
    assert all(one.ks < one.threshold for one in past if one.look < 48)
    assert past[0].threshold > past[30].threshold  # a window that has just begun says little
    assert past[-1].ks > past[-1].threshold


def test_a_liar_is_found_however_many_rows_it_claims() -> None:
    generator = np.random.default_rng(7)
    parts = [*fleet(8, vehicles=6), *(part("liar", look, draw(generator, 50_000, shift=4.0)) for look in range(24))]
    watched, merged = merged_of(parts)
    (odd,) = outliers(watched, merged, REFERENCE, least_ks=0.5, alpha=ALPHA)
    assert odd.vehicle == "liar"
    assert odd.ks > 0.8 > odd.others_ks


def test_where_the_whole_cohort_changes_nobody_lies() -> None:
    generator = np.random.default_rng(9)
    changed = [part(f"new-{n}", look, draw(generator, 200, shift=4.0)) for n in range(4) for look in range(24)]
    assert outliers(*merged_of([*fleet(10), *changed]), REFERENCE, least_ks=0.5, alpha=ALPHA) == []
    assert outliers(*merged_of(changed), REFERENCE, least_ks=0.5, alpha=ALPHA) == []


def test_two_vehicles_cannot_be_told_apart() -> None:
    generator = np.random.default_rng(11)
    parts = [*fleet(12, vehicles=1), *(part("other", look, draw(generator, 500, shift=4.0)) for look in range(24))]
    assert outliers(*merged_of(parts), REFERENCE, least_ks=0.5, alpha=ALPHA) == []


def test_cohorts_are_by_hardware_release_and_tag() -> None:
    def told(vehicle: str, release: int) -> Told:
        ref = ReleaseRef(task="traffic-sign", release=release, version="1-a", manifest_sha256="5f" * 32)
        signal = SignalSketch(name="brightness", rows=0, total=0.0)
        sketch = Sketch(boot=1, seq=1, slot="sign", ref=ref, from_ms=0, to_ms=1, decisions=0, signals=(signal,))
        return Told(vehicle, 0, sketch)

    members = {"a": Member("x86-64", ("north",)), "b": Member("x86-64", ()), "c": Member("arm", ("north",))}
    gathered = gather([told("a", 1), told("b", 1), told("c", 1), told("b", 2), told("nobody", 1)], members)
    vehicles = {(c.release, c.hardware, c.tag): one.vehicles() for (c, _), one in gathered.items()}
    assert vehicles == {
        (1, "x86-64", ""): ["a", "b"],
        (1, "x86-64", "north"): ["a"],
        (1, "arm", ""): ["c"],
        (1, "arm", "north"): ["c"],
        (2, "x86-64", ""): ["b"],
    }


def test_bins_of_another_reference_are_left_out() -> None:
    parts = fleet(13, vehicles=2)
    foreign = Part("van-9", 3, SignalSketch(name="brightness", rows=4, total=0.0, counts=(2, 2)))
    _, merged = merged_of([*parts, foreign])
    assert merged.vehicles == ("van-0", "van-1")


def test_false_alarms_stay_within_the_budget() -> None:
    """Two hundred fleets of which none has changed: with a budget of one in ten windows, at most a few alarms."""
    rules = Rules(false_alarms=0.1, least_ks=0.0)
    alarms = 0
    for seed in range(200):
        generator = np.random.default_rng(1000 + seed)
        watched, merged = merged_of([part("van-1", look, draw(generator, 100)) for look in range(24)])
        alarms += judge(watched, merged, REFERENCE, rules, rules.alpha(1)).drifted
    assert alarms <= 20
