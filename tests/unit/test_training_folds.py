"""Which rows a fold holds out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_cloud.training.folds import held_out_groups, held_out_span
from roadloop_cloud.training.spec import Fold
from roadloop_models.errors import ConfigError, DataError


@given(st.integers(20, 5000), st.integers(2, 20))
def test_stretches_hold_every_row_out_once(count: int, folds: int) -> None:
    spans = [held_out_span(count, Fold(index, folds), 0.75) for index in range(folds)]
    assert [row for first, end in spans for row in range(first, end)] == list(range(count))
    assert max(end - first for first, end in spans) - min(end - first for first, end in spans) <= 1


def test_without_a_fold_the_last_rows_are_held_out() -> None:
    assert held_out_span(100, None, 0.75) == (75, 100)


@given(st.lists(st.integers(2, 9), min_size=1, max_size=8), st.integers(2, 5), st.integers(0, 99))
def test_groups_stay_whole_and_each_is_held_out_once(tracks: list[int], folds: int, seed: int) -> None:
    classes = np.repeat(np.arange(len(tracks)), tracks)
    rows_of_group = np.arange(len(classes)) % 3 + 1
    groups, labels = np.repeat(np.arange(len(classes)), rows_of_group), np.repeat(classes, rows_of_group)
    held = []
    for index in range(folds):
        try:
            held.append(held_out_groups(groups, labels, Fold(index, folds), seed))
        except DataError:  # fewer tracks than folds
            held.append(np.zeros(len(groups), dtype=bool))
    assert (np.sum(held, axis=0) == 1).all()
    for mask in held:
        assert not set(groups[mask]) & set(groups[~mask])


def test_what_there_is_one_of_is_learned_and_not_held_out() -> None:
    groups, classes = np.array([0, 1, 2, 2]), np.array([0, 0, 1, 1])
    for index in range(2):
        assert not held_out_groups(groups, classes, Fold(index, 2), 0)[2:].any()
    with pytest.raises(DataError, match="fold 1 of 2: too few"):
        held_out_groups(groups[2:], classes[2:], Fold(0, 2), 0)


def test_a_fold_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="fold 4 of 3"):
        held_out_span(100, Fold(3, 3), 0.75)
