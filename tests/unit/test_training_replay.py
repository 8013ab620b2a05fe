"""Replay: which batches an epoch has, and that what is replayed is not forgotten."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from roadloop_cloud.training.replay import ReplayedLearner, ReplayedSubject
from roadloop_cloud.training.train import Batch, Learner, Recipe, fit


@dataclass(frozen=True)
class _Side:
    """Rows of one side: a parabola around `centre`, and the learner of it."""

    centre: float
    batches_per_epoch: int = 40

    form: Any = None
    card: Any = None
    rows: int = 40
    score_name: str = "error"
    split_note: str = "made rows"

    def model(self) -> torch.nn.Module:
        torch.manual_seed(3)
        return torch.nn.Sequential(torch.nn.Linear(1, 24), torch.nn.Tanh(), torch.nn.Linear(24, 1))

    def recipe(self, fine_tune: bool) -> Recipe:
        return Recipe(8, 2e-2, 0.0, 0.9)

    def refits(self, fine_tune: bool) -> bool:
        return False

    def learner(self, everything: bool) -> Learner:
        return self

    @property
    def score(self) -> Callable[[torch.nn.Module], float]:
        return self._score

    def calibration(self) -> Any:
        return [(self.centre,)] * 4

    def batches(self, generator: torch.Generator) -> Iterator[Batch]:
        for _ in range(self.batches_per_epoch):
            rows = self.centre + torch.rand((16, 1), generator=generator)
            yield rows, (rows * 3).sin()

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        loss: torch.Tensor = (model(batch[0]) - batch[1]).square().mean()
        return loss

    def _score(self, model: torch.nn.Module) -> float:
        rows = self.centre + torch.linspace(0, 1, 50).unsqueeze(1)
        with torch.no_grad():
            return float((model(rows) - (rows * 3).sin()).square().mean())


NEW, OLD = _Side(1.5), _Side(-1.5)


@pytest.mark.parametrize(("share", "old_batches"), [(0.25, 10), (0.5, 20), (0.9, 36)])
def test_an_epoch_is_as_long_as_before_and_has_the_share_of_old_batches(share: float, old_batches: int) -> None:
    learner = ReplayedLearner(NEW, _Side(-1.5, batches_per_epoch=3), share)
    assert learner.batches_per_epoch == 40
    centres = [float(batch[0].mean()) for batch in learner.batches(torch.Generator().manual_seed(1))]
    assert len(centres) == 40
    assert sum(centre < 0 for centre in centres) == old_batches


def test_validation_counts_both_sides() -> None:
    subject = ReplayedSubject(NEW, OLD, 0.25)
    model = NEW.model()
    assert subject.score(model) == pytest.approx(0.75 * NEW.score(model) + 0.25 * OLD.score(model))
    rows: Any = subject.calibration()
    assert rows == [(1.5,), (1.5,), (-1.5,), (-1.5,)]
    assert "Replayed, in 25% of the batches" in subject.split_note


def _trained(subject: Any, start: torch.nn.Module) -> torch.nn.Module:
    recipe = subject.recipe(True)
    state = {name: value.clone() for name, value in start.state_dict().items()}
    model = NEW.model()
    model.load_state_dict(state)
    fitted = fit(model, subject.learner(False), recipe, seed=5, on_epoch=lambda *_: None, score=subject.score)
    model.load_state_dict(fitted.state)
    return model.eval()


def test_what_is_replayed_is_not_forgotten() -> None:
    parent = _trained(OLD, NEW.model())
    forgetful, mindful = _trained(NEW, parent), _trained(ReplayedSubject(NEW, OLD, 0.5), parent)
    assert OLD.score(forgetful) > 10 * OLD.score(parent), "without replay it forgets: else this test shows nothing"
    assert OLD.score(mindful) < 0.2 * OLD.score(forgetful)
    assert NEW.score(mindful) < 0.1 * NEW.score(parent), "and it learns what is new"
