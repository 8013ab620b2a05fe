"""Which test rows are explained, and how a task's inputs are shown: one module per kind of input says the rest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from roadloop_models.bundle import Bundle
from roadloop_models.runners import FloatArray
from roadloop_models.tasks import Evaluation

Infer = Callable[[Any], tuple[FloatArray, ...]]
"""An item, preprocessed and run by the vehicle's runner -> output tensors."""


@dataclass(frozen=True)
class Row:
    """One test row, and the number of the model's answer that is explained."""

    index: int
    """Among the losses of the evaluation."""
    title: str
    item: Any
    """What the sensor gave, before any preprocessing."""
    output: int
    """Which output tensor the number is in, ..."""
    place: tuple[int, ...]
    """... and where, after the batch axis."""
    focus: int = 0
    """Which of several series of the item the answer is about."""


@dataclass(frozen=True)
class Axes:
    """How a map of one input is to be read: names of its lines and of its columns; none for an image."""

    lines: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


class Explained(Protocol):
    """How the rows of one task are explained."""

    @property
    def axes(self) -> Axes:
        """How its maps are read."""

    @property
    def unit(self) -> str:
        """Of what the maps' numbers are shares or changes."""

    def rows(self, bundle: Bundle, data_dir: Path, indices: Sequence[int], infer: Infer) -> list[Row]:
        """The rows of these indices among the evaluation's losses. Raises DataError naming file and field."""

    def value(self, outputs: tuple[FloatArray, ...], row: Row) -> float:
        """The number that is explained, in `unit`."""

    def occlude(self, row: Row, infer: Infer) -> FloatArray:
        """By how much the number falls where a part of the item is hidden; as large as `image`, or lines x columns."""

    def gather(self, attributions: Sequence[FloatArray], row: Row) -> FloatArray:
        """Attributions of each input tensor -> a map as `occlude` makes it, in the network's own units."""

    def image(self, row: Row) -> npt.NDArray[np.uint8] | None:
        """What the map is laid over."""


def choose(evaluation: Evaluation, count: int, seed: int) -> list[int]:
    """Rows worth a look: half of them those with the highest losses, one of a cluster; the others drawn by the seed.

    Indices among the losses; fewer where there are not as many.
    """
    assert evaluation.losses is not None
    losses = evaluation.losses
    clusters = np.arange(len(losses)) if evaluation.clusters is None else evaluation.clusters
    chosen: list[int] = []
    for index in np.argsort(-losses, kind="stable").tolist():
        if len(chosen) >= (count + 1) // 2:
            break
        if clusters[index] not in clusters[chosen]:
            chosen.append(index)
    others = np.setdiff1d(np.arange(len(losses)), chosen)
    drawn = np.random.Generator(np.random.PCG64(seed)).permutation(others)[: count - len(chosen)]
    return chosen + sorted(drawn.tolist())
