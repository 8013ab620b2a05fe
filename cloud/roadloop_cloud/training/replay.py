"""Replay against forgetting: a fixed share of every epoch's batches, and of validation, is of old rows."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch

from roadloop_cloud.training.card import CardTexts
from roadloop_cloud.training.quantize_onnx import Calibration
from roadloop_cloud.training.subject import ModelForm, Subject
from roadloop_cloud.training.train import Batch, Learner, Recipe


class ReplayedSubject:
    """The new rows with the old ones beside them; each side holds out rows of its own."""

    def __init__(self, new: Subject, old: Subject, share: float) -> None:
        """`share` of the batches are of `old`; both must start from the same weights."""
        self._new, self._old, self._share = new, old, share
        self.form: ModelForm = new.form
        self.card: CardTexts = new.card
        self.rows = new.rows + old.rows
        self.score_name = new.score_name
        self.split_note = f"{new.split_note}. Replayed, in {share:.0%} of the batches: {old.split_note}"

    def model(self) -> torch.nn.Module:
        """As for the new rows."""
        return self._new.model()

    def recipe(self, fine_tune: bool) -> Recipe:
        """As for the new rows."""
        return self._new.recipe(fine_tune)

    def refits(self, fine_tune: bool) -> bool:
        """As for the new rows."""
        return self._new.refits(fine_tune)

    def learner(self, everything: bool) -> Learner:
        """Batches of both."""
        return ReplayedLearner(self._new.learner(everything), self._old.learner(everything), self._share)

    @property
    def score(self) -> Callable[[torch.nn.Module], float]:
        """Both validation scores, weighted as the batches are: what forgets is not chosen."""
        new, old, share = self._new.score, self._old.score, self._share
        return lambda model: (1 - share) * new(model) + share * old(model)

    def calibration(self) -> Calibration:
        """Half of each side's: int8 ranges must hold for what is replayed too."""
        return [*self._new.calibration()[::2], *self._old.calibration()[::2]]

    def __getattr__(self, name: str) -> Any:
        """What else a task's subject can do, for compression, it does as for the new rows."""
        return getattr(self._new, name)


class ReplayedLearner:
    """As many batches as the new rows alone would be, some of them of old rows instead."""

    def __init__(self, new: Learner, old: Learner, share: float) -> None:
        self._new, self._old = new, old
        self.batches_per_epoch = new.batches_per_epoch
        self._old_batches = round(share * self.batches_per_epoch)

    def batches(self, generator: torch.Generator) -> Iterator[Batch]:
        """One epoch; which places the old batches have is drawn. What there is too little of comes again."""
        places = set(torch.randperm(self.batches_per_epoch, generator=generator)[: self._old_batches].tolist())
        new, old = (_endless(one, generator) for one in (self._new, self._old))
        for place in range(self.batches_per_epoch):
            yield from islice(old if place in places else new, 1)

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """As for the new rows: both sides are of one task."""
        return self._new.loss(model, batch)


def _endless(learner: Learner, generator: torch.Generator) -> Iterator[Batch]:
    while True:
        yield from learner.batches(generator)
