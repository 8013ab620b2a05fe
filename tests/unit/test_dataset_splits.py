"""Splits let nothing leak, odd rows are named, and snapshots are compared: pure parts, no files but rows.csv."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_cloud.datasets.compare import compare
from roadloop_cloud.datasets.origins import FILE, RowOrigin, read_origins, write_origins
from roadloop_cloud.datasets.quality import MOST_NAMED, STUCK_STEPS, far_vehicles, finding, mixed, stuck
from roadloop_cloud.datasets.splits import Placed, Shares, by_name, by_time
from roadloop_models.errors import DataError

Bond = tuple[str, str, str]
BONDS = st.lists(
    st.tuples(
        st.integers(0, 30).map(lambda n: f"track {n}"),
        st.integers(0, 8).map(lambda n: f"drive {n}"),
        st.integers(0, 200).map(lambda n: f"picture {n}"),
    ),
    min_size=1,
    max_size=60,
)
SHARES = st.builds(Shares, st.sampled_from([0.0, 0.1, 0.4]), st.sampled_from([0.0, 0.2]))


def shared(bonds: Sequence[Bond], placed: Sequence[Placed]) -> list[str]:
    """Identifiers that lie in more than one split."""
    where: dict[str, set[str]] = {}
    for bond, place in zip(bonds, placed, strict=True):
        for name in bond:
            where.setdefault(name, set()).add(place.split)
    return [name for name, splits in where.items() if len(splits) > 1]


@given(BONDS, SHARES)
def test_nothing_that_rows_share_lies_on_both_sides_of_a_split_by_name(bonds: list[Bond], shares: Shares) -> None:
    placed = by_name(bonds, [bond[0] for bond in bonds], shares)
    assert shared(bonds, placed) == []
    assert by_name(bonds, [bond[0] for bond in bonds], shares) == placed


@given(BONDS, SHARES, st.randoms(use_true_random=False))
def test_nothing_that_rows_share_lies_on_both_sides_of_a_split_by_time(
    bonds: list[Bond], shares: Shares, random: object
) -> None:
    times = [random.random() for _ in bonds]  # type: ignore[attr-defined]
    placed = by_time(bonds, times, shares)
    assert shared(bonds, placed) == []
    assert any(place.split == "train" for place in placed)


@given(st.lists(st.integers(0, 400), min_size=30, max_size=200, unique=True), SHARES)
def test_time_is_cut_and_not_mixed(times: list[int], shares: Shares) -> None:
    placed = by_time([(f"step {time}",) for time in times], times, shares)
    of = {
        name: [time for time, place in zip(times, placed, strict=True) if place.split == name]
        for name in ("train", "validation", "test")
    }
    assert max(of["train"]) < min(of["validation"] + of["test"], default=10**9)
    assert max(of["validation"], default=-1) < min(of["test"], default=10**9)
    assert len(of["test"]) == pytest.approx(shares.test * len(times), abs=1)
    assert len(of["validation"]) == pytest.approx(shares.validation * (1 - shares.test) * len(times), abs=2)


@given(BONDS, BONDS)
def test_what_was_tested_on_once_is_never_trained_on_later(first: list[Bond], more: list[Bond]) -> None:
    shares = Shares(0.1, 0.2)
    early = by_name(first, [""] * len(first), shares)
    late = by_name(first + more, [""] * len(first + more), shares)
    for before, after in zip(early, late[: len(first)], strict=True):
        assert after.split == "test" or before.split != "test"


def test_shares_are_met_over_many_groups_and_order_decides_nothing() -> None:
    bonds = [(f"track {number}",) for number in range(4000)]
    placed = by_name(bonds, [""] * 4000, Shares(0.1, 0.2))
    counts = {name: sum(place.split == name for place in placed) for name in ("train", "validation", "test")}
    assert counts["test"] == pytest.approx(800, abs=80)
    assert counts["validation"] == pytest.approx(320, abs=60)
    assert by_name(bonds[::-1], [""] * 4000, Shares(0.1, 0.2)) == placed[::-1]


def test_a_class_is_never_validated_with_only() -> None:
    bonds = [(f"track {number}",) for number in range(200)]
    placed = by_name(bonds, [bond[0] for bond in bonds], Shares(0.3))
    assert {place.split for place in placed} == {"train"}
    two_each = by_name(bonds, [f"class {number // 2}" for number in range(200)], Shares(0.3))
    for number in range(0, 200, 2):
        assert "train" in {two_each[number].split, two_each[number + 1].split}


def test_two_groups_suffice_to_validate() -> None:
    for seed in range(50):
        placed = by_name([(f"a {seed}",), (f"b {seed}",)], ["", ""], Shares(0.001))
        assert sorted(place.split for place in placed) == ["train", "validation"]


def test_rows_say_where_they_come_from(tmp_path: Path) -> None:
    rows = [RowOrigin("ab", "train", 'track "1", a', "car-1", "car-1/2", "stop", "person", "anna")]
    rows.append(RowOrigin("cd", "test", "track 2"))
    write_origins(tmp_path, rows)
    assert read_origins(tmp_path) == rows
    (tmp_path / FILE).write_text((tmp_path / FILE).read_text().replace(",test,", ",exam,"))
    with pytest.raises(DataError, match="line 3: field 'split' is 'exam'"):
        read_origins(tmp_path)


def test_snapshots_are_compared_by_what_their_rows_are_called() -> None:
    before = [RowOrigin(key, "train", key, "car-1", label="stop") for key in "abcd"]
    after = [
        RowOrigin("a", "train", "a", "car-1", label="stop"),
        RowOrigin("b", "test", "b", "car-1", label="stop"),
        RowOrigin("c", "train", "c", "car-1", label="yield", origin="person", by="anna"),
        RowOrigin("e", "train", "e", "car-2", label="stop"),
    ]
    found = compare(before, after)
    assert (found.same, found.added, found.removed) == (1, 1, 1)
    assert found.by_vehicle == {"car-1": -1, "car-2": 1}
    assert found.relabelled == ("c: stop -> yield (person: anna)",)
    assert found.moved == ("b: train -> test",)
    assert found.leaked == ("b",)


def test_a_stuck_sensor_is_named_with_its_steps() -> None:
    values = np.random.default_rng(3).normal(50, 5, (100, 3)).astype(np.float32)
    values[20 : 20 + STUCK_STEPS, 1] = 65
    values[50 : 50 + STUCK_STEPS - 1, 2] = 65
    assert stuck(values, np.arange(100)) == [f"sensor 1, steps 20..{19 + STUCK_STEPS}, 65"]
    with_gap = np.concatenate([np.arange(30), np.arange(40, 110)])
    assert stuck(values, with_gap) == [], "a gap ends a run: nobody saw what was in between"


def test_a_vehicle_far_from_the_others_is_named() -> None:
    cells = np.repeat(np.arange(100), 3)
    vehicles = np.tile(np.arange(3), 100)
    values = np.full(300, 60.0)
    values[vehicles == 2] += 40
    assert far_vehicles(cells, values, vehicles, ["a", "b", "c"]) == ["c, 100 of 100"]
    assert far_vehicles(cells[vehicles > 0], values[vehicles > 0], vehicles[vehicles > 0], ["a", "b", "c"]) == [], (
        "of two nobody knows which is wrong"
    )


def test_findings_count_all_and_name_the_first() -> None:
    assert finding("odd", []) is None
    many = finding("odd", [f"{number:03}" for number in range(100)])
    assert many is not None
    assert (many.count, len(many.rows), many.rows[0]) == (100, MOST_NAMED, "000")
    assert mixed([("p", "a"), ("p", "b"), ("q", "c")], {"a": "x", "b": "y", "c": "z"}.__getitem__) == ["a", "b"]
