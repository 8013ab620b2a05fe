"""Epochs of rows in random order, in whole batches."""

from collections.abc import Iterator

import torch


class RandomRows:
    """What learners of tasks with independent rows share; see Learner."""

    def __init__(self, rows: int, rows_per_epoch: int | None, batch: int) -> None:
        """Of `rows` rows each epoch takes as many as there are, or so many of them."""
        self._row_count = rows
        self._per_epoch = min(rows, rows_per_epoch or rows)
        self._batch = min(batch, self._per_epoch)

    @property
    def batches_per_epoch(self) -> int:
        """A last part of a batch is left out: batch normalization needs company."""
        return self._per_epoch // self._batch

    def _drawn(self, generator: torch.Generator) -> Iterator[torch.Tensor]:
        """One epoch: the numbers of each batch's rows."""
        order = torch.randperm(self._row_count, generator=generator)[: self.batches_per_epoch * self._batch]
        yield from order.split(self._batch)
