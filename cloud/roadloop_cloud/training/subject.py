"""What the training of a task has to say; the modules named after the tasks say it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from roadloop_cloud.training.card import CardTexts
from roadloop_cloud.training.quantize_onnx import Calibration
from roadloop_cloud.training.train import Learner, Recipe
from roadloop_models.bundle import Preprocess


@dataclass(frozen=True)
class ModelForm:
    """How a model of this task looks from outside: the same for every version."""

    kind: Literal["conv", "recurrent"]
    preprocess: Preprocess
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    """In comparable units: one golden tolerance is for all of them. Where there are labels, the first is of classes."""
    golden_low: tuple[float, ...]
    golden_high: tuple[float, ...]
    labels: tuple[str, ...] | None
    architecture: str
    """One sentence for the model card."""


class Subject(Protocol):
    """One run's rows and the task's way to train on them."""

    @property
    def form(self) -> ModelForm:
        """How the model looks from outside."""

    @property
    def card(self) -> CardTexts:
        """What the model card says of the task."""

    @property
    def rows(self) -> int:
        """Training rows in all: images, or steps."""

    @property
    def split_note(self) -> str:
        """What was trained on and what was held out, for the model card."""

    @property
    def score_name(self) -> str:
        """The name of the validation score among the metrics."""

    def model(self) -> torch.nn.Module:
        """A model at its start: seeded weights, or the parent's."""

    def recipe(self, fine_tune: bool) -> Recipe:
        """How to train from nothing, or from a parent."""

    def refits(self, fine_tune: bool) -> bool:
        """Whether training again on all rows is worth its time."""

    def learner(self, everything: bool) -> Learner:
        """Batches of the rows to fit, or of these and the validation rows too."""

    @property
    def score(self) -> Callable[[torch.nn.Module], float]:
        """Validation: lower is better."""

    def calibration(self) -> Calibration:
        """Input tensors from training rows, for the ranges of static quantization."""
