"""The gate's arithmetic: the paired bootstrap, slices, calibration, disturbances, budgets and lineages."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from roadloop_cloud.config import GateConfig
from roadloop_cloud.gate.bootstrap import compare
from roadloop_cloud.gate.bounds import DEFAULTS, bounds_of
from roadloop_cloud.gate.budgets import Budget, judge_budget, read_budgets
from roadloop_cloud.gate.calibration import expected_calibration_error, reliability
from roadloop_cloud.gate.figures import Seen, VariantFigures, Verdict
from roadloop_cloud.gate.held_out import TrainedOn, judge_held_out, trained_on
from roadloop_cloud.gate.judge import judge
from roadloop_cloud.gate.latency import judge_latency
from roadloop_cloud.identity.provisioning import packaged_profiles
from roadloop_cloud.training.sources import sources_of
from roadloop_models.bundle import Lineage, Manifest, Source
from roadloop_models.errors import BundleError, NotFoundError
from roadloop_models.tasks import TASKS, Evaluation, get_task
from roadloop_models.tasks.speed_data import SpeedRows, write_speeds

SIGN = get_task("traffic-sign")
SPEED = get_task("traffic-speed")
KEY = "onnx-int8"


def seen(misses: Any, **more: Any) -> Seen:
    """A classifier that misses these rows (float or bool array)."""
    losses = np.asarray(misses, dtype=np.float32)
    disturbed = more.pop("disturbed", {})
    figures = VariantFigures(
        file_sha256="a" * 64,
        rows=len(losses),
        metrics={"accuracy": 1 - float(losses.mean())},
        size_bytes=more.pop("size_bytes", 1000),
        ece=more.pop("ece", 0.01),
    )
    wrong = {name: Evaluation({}, len(values), losses=values) for name, values in disturbed.items()}
    return Seen(figures, Evaluation(figures.metrics, len(losses), losses=losses, **more), wrong)


def verdict(now: Seen, new: Seen, **bounds: Any) -> Verdict:
    return judge(SIGN, {KEY: now}, {KEY: new}, msgspec.structs.replace(DEFAULTS["traffic-sign"], **bounds))


def misses(rows: int, share: float, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random(rows) < share


# Better with confidence


def test_a_clear_gain_is_accepted_and_a_lucky_one_refused() -> None:
    now = misses(1000, 0.1)
    better = now.copy()
    better[np.flatnonzero(now)[:40]] = False
    assert verdict(seen(now), seen(better)).accepted
    lucky = now.copy()
    lucky[np.flatnonzero(now)[:3]] = False
    lucky[np.flatnonzero(~now)[:2]] = True  # 3 mended, 2 broken: no evidence
    found = verdict(seen(now), seen(lucky))
    assert [refusal.split(":")[0] for refusal in found.refusals] == [f"gate 'better {KEY}'"]
    assert "is better than" in found.refusals[0] and "95% sure of -" in found.refusals[0]


def test_worse_and_equal_are_refused_with_the_amount() -> None:
    now = misses(1000, 0.1)
    worse = now.copy()
    worse[np.flatnonzero(~now)[:45]] = True
    assert "is worse than" in verdict(seen(now), seen(worse)).refusals[0]
    assert "by 0.045, needed more than 0" in verdict(seen(now), seen(worse)).refusals[0]
    assert "is no better than" in verdict(seen(now), seen(now)).refusals[0]


def test_a_margin_must_be_beaten_with_confidence_too() -> None:
    now = misses(1000, 0.1)
    better = now.copy()
    better[np.flatnonzero(now)[:40]] = False
    assert verdict(seen(now), seen(better), margin=0.02).accepted
    assert "needed more than 0.038" in verdict(seen(now), seen(better), margin=0.038).refusals[0]


def test_rows_of_one_cluster_count_once() -> None:
    now = np.zeros(400)
    now[:40] = 1  # forty misses that the candidate mends: of forty tracks, or of one
    new = np.zeros(400)
    assert verdict(seen(now), seen(new)).accepted
    tracks = np.arange(400) // 40
    found = verdict(seen(now, clusters=tracks), seen(new, clusters=tracks))
    assert not found.accepted and "(400 rows count as 10)" in found.refusals[0]
    assert not verdict(seen(now, rows_per_independent=40), seen(new, rows_per_independent=40)).accepted


def test_the_draws_are_seeded_and_paired() -> None:
    generator = np.random.default_rng(3)
    base = generator.normal(10, 5, 200) ** 2
    first = Evaluation({}, 200, losses=base.astype(np.float32), root=True)
    second = Evaluation({}, 200, losses=(0.98 * base).astype(np.float32), root=True)
    everything = {"all": np.ones(200, dtype=bool)}
    once, again = (compare(first, second, everything, resamples=300, seed=5)["all"] for _ in range(2))
    np.testing.assert_array_equal(once.gains, again.gains)
    # Between rows the losses vary by half their size; paired, the gain is always one per cent of the root.
    assert once.gain == pytest.approx((1 - 0.98**0.5) * float(np.sqrt(base.mean())), rel=1e-4)
    assert once.least_gain(0.99) > 0.5 * once.gain


def test_the_bootstrap_covers_as_often_as_it_says() -> None:
    """Of 200 pairs of equal models the lower limit at 95 % confidence is above 0 in about a twentieth."""
    generator = np.random.default_rng(11)
    everything = {"all": np.ones(300, dtype=bool)}
    wrong = 0
    for _ in range(200):
        losses = generator.random((2, 300)) < 0.1
        pair = [Evaluation({}, 300, losses=one.astype(np.float32)) for one in losses]
        wrong += compare(pair[0], pair[1], everything, resamples=300, seed=1)["all"].least_gain(0.95) > 0
    assert 2 <= wrong <= 20


def test_every_variant_must_be_better_and_the_least_gain_decides() -> None:
    now, good, better = np.ones(100), np.r_[np.zeros(50), np.ones(50)], np.zeros(100)
    before = {"onnx-int8": seen(now), "tflite-int8": seen(now)}
    bounds = DEFAULTS["traffic-sign"]
    found = judge(SIGN, before, {"onnx-int8": seen(better), "tflite-int8": seen(good)}, bounds)
    assert (found.accepted, found.deciding) == (True, "tflite-int8")
    assert not judge(SIGN, before, {"onnx-int8": seen(better), "tflite-int8": seen(now)}, bounds).accepted
    assert "has no tflite-int8" in judge(SIGN, before, {"onnx-int8": seen(better)}, bounds).refusals[0]


def test_other_rows_or_none_cannot_be_compared() -> None:
    assert "cannot be compared" in verdict(seen(np.ones(10)), seen(np.zeros(11))).refusals[0]
    silent = Seen(seen(np.ones(10)).figures, Evaluation({"accuracy": 0.0}, 10), {})
    assert "no loss of each row" in verdict(silent, silent).refusals[0]
    assert "not finite" in verdict(seen(np.ones(10)), seen(np.full(10, np.nan))).refusals[0]
    told = {"hardware": np.array(["a"] * 10)}
    for now, new in ((told, {}), ({}, told)):  # the data folder told of its rows between the two
        found = verdict(seen(np.ones(10), slices=now), seen(np.zeros(10), slices=new))
        assert "only one of them was evaluated with slices of hardware; evaluate again" in found.refusals[0]


# Slices


def test_a_slice_that_gets_worse_is_refused_though_the_whole_gets_better() -> None:
    labels = np.repeat(np.array(["stop", "yield", "speed"]), [50, 450, 500])
    now = misses(1000, 0.2)
    now[:50] = False
    new = np.zeros(1000, dtype=bool)
    new[:20] = True  # 20 of 50 stop signs are lost
    slices = {"class": labels}
    found = verdict(seen(now, slices=slices), seen(new, slices=slices))
    assert [refusal.split(":")[0] for refusal in found.refusals] == [f"gate 'slices class {KEY}'"]
    assert "'class stop' is worse by 0.4 (0 to 0.4 on 50 rows)" in found.refusals[0]
    assert "bound 0.02" in found.refusals[0]
    assert verdict(seen(now, slices=slices), seen(new, slices=slices), slice_worse=0.6).accepted


def test_a_slice_of_few_rows_says_nothing() -> None:
    labels = np.repeat(np.array(["rare", "common"]), [2, 998])
    now, new = misses(1000, 0.2), np.zeros(1000, dtype=bool)
    now[:2], new[:2] = False, True
    slices = {"class": labels}
    found = verdict(seen(now, slices=slices), seen(new, slices=slices))
    assert found.accepted
    assert "1 of 2 have rows enough" in next(gate.detail for gate in found.gates if gate.gate.startswith("slices"))


def test_one_more_miss_in_a_small_slice_is_chance() -> None:
    labels = np.repeat(np.array(["small", "large"]), [40, 960])
    now, new = misses(1000, 0.2), np.zeros(1000, dtype=bool)
    now[:40], new[0] = False, True
    assert verdict(seen(now, slices={"class": labels}), seen(new, slices={"class": labels})).accepted


# Calibration, disturbances, costs


def test_calibration_error_is_the_distance_of_confidence_and_hits() -> None:
    sure = np.array([0.95] * 10 + [0.55] * 10, dtype=np.float32)
    hits = np.array([True] * 9 + [False] + [True] * 5 + [False] * 5)
    assert expected_calibration_error(sure, hits) == pytest.approx(0.05)
    assert [one.rows for one in reliability(sure, hits)] == [10, 10]
    assert expected_calibration_error(np.ones(4, dtype=np.float32), np.array([True] * 4)) == 0


def test_overconfidence_is_refused() -> None:
    now, new = np.ones(100), np.zeros(100)
    found = verdict(seen(now, ece=0.02), seen(new, ece=0.08))
    assert found.refusals == [f"gate 'calibration {KEY}': expected calibration error 0.08 after 0.02; bound 0.03 worse"]


def test_a_candidate_that_bears_noise_worse_is_refused() -> None:
    rows = {name: misses(500, share, seed=2).astype(np.float32) for name, share in (("now", 0.1), ("new", 0.3))}
    found = verdict(
        seen(np.ones(100), disturbed={"noise": rows["now"]}), seen(np.zeros(100), disturbed={"noise": rows["new"]})
    )
    assert [refusal.split(":")[0] for refusal in found.refusals] == [f"gate 'robust noise {KEY}'"]
    assert "bound 0.02 worse" in found.refusals[0]
    same = seen(np.zeros(100), disturbed={"noise": rows["now"]})
    assert verdict(seen(np.ones(100), disturbed={"noise": rows["now"]}), same).accepted
    assert "was not evaluated" in verdict(same, seen(np.zeros(100))).refusals[-1]


def test_a_file_that_grows_too_much_is_refused() -> None:
    found = verdict(seen(np.ones(100), size_bytes=1000), seen(np.zeros(100), size_bytes=1600))
    assert found.refusals == [f"gate 'size {KEY}': 1,600 bytes after 1,000; bound 1.5 times as many"]


def test_a_slow_candidate_is_refused() -> None:
    bounds = DEFAULTS["traffic-sign"]
    assert judge_latency(KEY, 100, 190, bounds).passed
    slow = judge_latency(KEY, 100, 230, bounds)
    assert (slow.passed, slow.detail) == (False, "230 us after 100 us, in turns on this machine; bound 200")


def test_budgets_are_the_tightest_of_the_profiles() -> None:
    text = '[slots.a]\ntask = "traffic-sign"\nruntime = "onnx"\nrate_hz = 10\n'
    tight = text + "max_latency_ms = 3\nmax_model_bytes = 5000\n"
    assert read_budgets("traffic-sign", {"wide": text})[KEY] == Budget(100.0, "wide, slot a")
    assert read_budgets("traffic-sign", {"old": text + "deadline_ms = 40\n"})[KEY].latency_ms == 40
    found = read_budgets("traffic-sign", {"wide": text, "tight": tight})[KEY]
    assert found == Budget(3.0, "tight, slot a", 5000, "tight, slot a")
    assert read_budgets("traffic-speed", {"wide": text}) == {}
    details = {gate.gate: (gate.passed, gate.detail) for gate in judge_budget(KEY, found, 3100, 6000)}
    assert details == {
        f"latency-budget {KEY}": (False, "3100 us here; tight, slot a: at most 3000"),
        f"size-budget {KEY}": (False, "6,000 bytes; tight, slot a: at most 5,000"),
    }


def test_the_packaged_profiles_leave_a_budget_to_every_task_they_run() -> None:
    texts = {name: file.read_text(encoding="utf-8") for name, file in packaged_profiles().items()}
    assert set(read_budgets("traffic-sign", texts)) == {"onnx-int8", "tflite-int8"}


def test_bounds_are_there_for_every_task_and_a_workspace_changes_single_ones() -> None:
    assert set(DEFAULTS) >= set(TASKS)
    changed = bounds_of("traffic-speed", GateConfig(slice_worse=0.25))
    assert (changed.slice_worse, changed.confidence) == (0.25, DEFAULTS["traffic-speed"].confidence)
    with pytest.raises(NotFoundError, match="no bounds"):
        bounds_of("weather")


# Rows that were trained on


def manifest(version: str, **lineage: Any) -> Manifest:
    template = Manifest.__struct_fields__
    values: dict[str, Any] = dict.fromkeys(template)
    values |= {"task": "traffic-speed", "version": version, "lineage": Lineage(**lineage)}
    return Manifest(**values)


def speeds(directory: Path, steps: range) -> Path:
    write_speeds(directory, SpeedRows(np.array(steps), np.ones((len(steps), 2), dtype=np.float32), ("0", "1")))
    return directory


def test_the_lineage_is_followed_back_to_its_beginning(tmp_path: Path) -> None:
    versions = {
        "first": manifest("first", data="published"),
        "second": manifest("second", parent_version="first", snapshot_sha256="b" * 64),
    }
    newest = manifest("third", parent_version="second", snapshot_sha256="c" * 64)
    found = list(trained_on(newest, "candidate", tmp_path, versions.__getitem__, lambda name: tmp_path / name[:1]))
    assert [(one.directory, one.part) for one in found] == [
        (tmp_path / "c", "snapshot"),
        (tmp_path / "b", "snapshot"),
        (tmp_path, "all"),
    ]

    def gone(_name: str) -> Any:
        raise NotFoundError("gone")

    lost = list(trained_on(newest, "candidate", tmp_path, gone, gone))
    assert [(one.what, one.directory) for one in lost] == [
        ("snapshot cccccccccccc of third", None),
        ("whatever second was trained on", None),
    ]


def test_what_teachers_and_parts_have_seen_counts_whether_a_registry_has_them_or_not(tmp_path: Path) -> None:
    taught = (
        Source("near", data="published", parent_version="far"),
        Source("far", snapshot_sha256="f" * 64, parent_version="first"),
        Source("lost"),
    )
    versions = {
        "first": manifest("first", snapshot_sha256="a" * 64),
        "small": manifest("small", data="published", parent_version="near", sources=taught),
    }
    newest = manifest("newest", parent_version="small", snapshot_sha256="b" * 64)
    found = list(trained_on(newest, "candidate", tmp_path, versions.__getitem__, lambda name: tmp_path / name[:1]))
    assert [(one.what, one.directory) for one in found] == [
        ("snapshot bbbbbbbbbbbb of newest", tmp_path / "b"),
        ("the training split that small began with", tmp_path),
        ("the training split that near began with", tmp_path),
        ("snapshot ffffffffffff of far", tmp_path / "f"),
        ("whatever lost was trained on", None),
        ("snapshot aaaaaaaaaaaa of first", tmp_path / "a"),
    ]


def test_sources_are_told_once_with_those_of_their_own(tmp_path: Path) -> None:
    first, second = Source("first", data="published"), Source("second", snapshot_sha256="b" * 64)
    taught = manifest("taught", data="published", parent_version="second", sources=(second, first))
    own = Source("taught", parent_version="second", data="published")
    assert sources_of([taught, manifest("first", data="published")]) == (own, second, first)
    with pytest.raises(BundleError, match="traffic-speed/first: two versions"):
        sources_of([taught, manifest("first", snapshot_sha256="c" * 64)])


@pytest.mark.parametrize("side", ["incumbent", "candidate"])
def test_a_test_row_that_was_trained_on_is_refused(tmp_path: Path, side: Any) -> None:
    data = speeds(tmp_path / "data", range(100))  # the last 20 are for testing
    clean = TrainedOn(side, "snapshot a", speeds(tmp_path / "clean", range(40, 80)))
    assert judge_held_out(SPEED, data, [clean]).passed
    leaky = TrainedOn(side, "snapshot b", speeds(tmp_path / "leaky", range(40, 83)))
    found = judge_held_out(SPEED, data, [clean, leaky])
    assert (found.passed, found.detail) == (False, f"3 of 20 test rows are in snapshot b, which trained the {side}")


def test_what_nobody_knows_is_refused_of_a_candidate_only(tmp_path: Path) -> None:
    data = speeds(tmp_path / "data", range(100))
    unknown = judge_held_out(SPEED, data, [TrainedOn("candidate", "whatever x was trained on", None)])
    assert not unknown.passed and "whatever x" in unknown.detail
    known = judge_held_out(SPEED, data, [TrainedOn("incumbent", "whatever x was trained on", None)])
    assert known.passed and "not known of the incumbent: whatever x" in known.detail
