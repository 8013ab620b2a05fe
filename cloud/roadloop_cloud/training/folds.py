"""Which rows a fold holds out: whole stretches of time, whole tracks, whole drives, so that nothing leaks."""

import numpy as np
import numpy.typing as npt

from roadloop_cloud.training.spec import Fold
from roadloop_models.errors import ConfigError, DataError


def held_out_span(count: int, fold: Fold | None, fit_share: float) -> tuple[int, int]:
    """(first, end) of the rows in order of time to hold out: one of equal stretches; without a fold the last ones."""
    if fold is None:
        return int(count * fit_share), count
    check_fold(fold)
    return count * fold.index // fold.count, count * (fold.index + 1) // fold.count


def held_out_groups(
    groups: npt.NDArray[np.int64], classes: npt.NDArray[np.int64], fold: Fold, seed: int
) -> npt.NDArray[np.bool_]:
    """Rows [n] whose group (a track, a drive) the fold holds out, about the same share of every class.

    A class that has fewer groups than there are folds is held out by some folds only, and one that has a single group
    by none: it must be learned. Raises DataError where the fold would hold nothing out.
    """
    check_fold(fold)
    generator = np.random.Generator(np.random.PCG64(seed))
    held_out = np.zeros(len(groups), dtype=bool)
    for class_id in np.unique(classes):
        own = generator.permutation(np.unique(groups[classes == class_id]))
        if len(own) > 1:
            # Every class begins at another fold, so that the first folds do not get all of the odd ones.
            turn = (np.arange(len(own)) + int(class_id)) % fold.count
            held_out |= np.isin(groups, own[turn == fold.index])
    if not held_out.any():
        raise DataError(f"fold {fold.index + 1} of {fold.count}: too few tracks or drives to hold one out")
    return held_out


def check_fold(fold: Fold) -> None:
    """Raise ConfigError where there is no such fold."""
    if fold.index >= fold.count:
        raise ConfigError(f"fold {fold.index + 1} of {fold.count}: there is no such fold")


def span_in_words(fold: Fold | None, count: int) -> str:
    """For the note on the split of rows in order of time."""
    return f"the last {count} of them" if fold is None else f"{count} of them (fold {fold.index + 1} of {fold.count})"
