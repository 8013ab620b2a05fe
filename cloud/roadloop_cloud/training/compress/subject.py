"""A task's subject, as it is for compression: the same rows and files, another network and another loss."""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Protocol, cast

import torch

from roadloop_cloud.training.card import CardTexts
from roadloop_cloud.training.compress.distil import DistilLearner, Teachable, Teaching
from roadloop_cloud.training.compress.qat import QatLearner
from roadloop_cloud.training.compress.settings import Compression
from roadloop_cloud.training.quantize_onnx import Calibration
from roadloop_cloud.training.subject import ModelForm, Subject
from roadloop_cloud.training.train import Learner, Recipe
from roadloop_cloud.training.weights import State
from roadloop_models.errors import ConfigError


class Narrowable(Subject, Protocol):
    """A subject whose network comes in several widths."""

    @property
    def hints(self) -> tuple[str, ...]:
        """Submodules whose outputs differ between widths in channels alone."""

    def student(self, share: float) -> torch.nn.Module:
        """A seeded network with at most `share` of the parameters. Raises ConfigError where there is none so small."""

    def network(self, state: State) -> torch.nn.Module:
        """That of another bundle of the task, by its weights. Raises BundleError for another kind's."""

    def describe(self, model: torch.nn.Module) -> str:
        """One sentence on a network of some width, for the model card."""

    def student_recipe(self) -> Recipe:
        """How a student is trained from nothing."""


class Prunable(Narrowable, Protocol):
    """A subject whose trained network can lose channels."""

    def pruned(self, share: float) -> torch.nn.Module:
        """The parent's network with the channels that count most, at most `share` of its parameters.

        Raises ConfigError where there is none so small.
        """

    def pruned_recipe(self) -> Recipe:
        """How it is trained on."""

    def rounded_recipe(self) -> Recipe:
        """How it is trained on while it is rounded as int8 rounds it."""


def compressed(subject: Subject, settings: Compression, teachers: Sequence[State] = ()) -> Subject:
    """The subject of a compression; `subject` is that of the parent bundle, `teachers` the weights of those beside it.

    Raises ConfigError where the task's network cannot be compressed that way, BundleError for a teacher of another
    kind.
    """
    if teachers and settings.method not in ("distil", "prune"):
        raise ConfigError(f"{settings.method} takes no more teachers; distil and prune do")
    needed = {"distil": "student", "prune": "pruned", "qat": "rounded_recipe", "quantize": "model"}[settings.method]
    if not hasattr(subject, needed):
        raise ConfigError(f"{settings.method} is not there for this task's network; 'quantize' is for every one")
    others = [cast(Narrowable, subject).network(state) for state in teachers]
    return CompressedSubject(subject, settings, others)


def roundable(subject: Subject) -> Prunable:
    """The task's own subject. Raises ConfigError where its network cannot be trained quantization-aware."""
    whole = subject.task_subject if isinstance(subject, CompressedSubject) else subject
    if not hasattr(whole, "rounded_recipe"):
        raise ConfigError("quantization-aware training is there for networks of convolutions alone")
    return cast(Prunable, whole)


def rounded_training(
    subject: Subject, model: torch.nn.Module, settings: Compression | None = None, *, everything: bool = True
) -> tuple[Learner, Recipe]:
    """How a trained `model` is trained on quantization-aware, with what it is now as its teacher.

    The statistics of batch normalization are left as they are: files have them folded in. Raises ConfigError where the
    task's network is none of convolutions.
    """
    whole = roundable(subject)
    recipe = whole.rounded_recipe()
    frozen = tuple(name for name, part in model.named_modules() if isinstance(part, torch.nn.BatchNorm2d))
    teacher = copy.deepcopy(model)
    learner = QatLearner(_taught(whole, teacher, settings or Compression(method="qat"), everything))
    return learner, dataclasses.replace(recipe, frozen=frozen)


class CompressedSubject:
    """Stands in the place of the task's own subject while its parent is compressed."""

    def __init__(self, subject: Subject, settings: Compression, others: Sequence[torch.nn.Module] = ()) -> None:
        """`others`: teachers beside the parent."""
        self.task_subject, self._settings, self._others = subject, settings, others

    @property
    def card(self) -> CardTexts:
        """The task's."""
        return self.task_subject.card

    @property
    def rows(self) -> int:
        """The task's."""
        return self.task_subject.rows

    @property
    def split_note(self) -> str:
        """The task's."""
        return self.task_subject.split_note

    @property
    def score_name(self) -> str:
        """The task's."""
        return self.task_subject.score_name

    @property
    def score(self) -> Callable[[torch.nn.Module], float]:
        """The task's."""
        return self.task_subject.score

    def calibration(self) -> Calibration:
        """The task's."""
        return self.task_subject.calibration()

    @cached_property
    def form(self) -> ModelForm:
        """The task's, of another width."""
        form = self.task_subject.form
        if self._settings.method not in ("distil", "prune"):
            return form
        narrowable = cast(Narrowable, self.task_subject)
        return dataclasses.replace(form, architecture=narrowable.describe(self.model()))

    def model(self) -> torch.nn.Module:
        """The network to begin with."""
        if self._settings.method == "distil":
            return cast(Narrowable, self.task_subject).student(self._settings.share)
        if self._settings.method == "prune":
            return cast(Prunable, self.task_subject).pruned(self._settings.share)
        return self.task_subject.model()

    def recipe(self, fine_tune: bool) -> Recipe:
        """The task's for this method."""
        if self._settings.method == "distil":
            return cast(Narrowable, self.task_subject).student_recipe()
        if self._settings.method == "prune":
            return cast(Prunable, self.task_subject).pruned_recipe()
        if self._settings.method == "qat":
            return rounded_training(self, self.model(), self._settings)[1]
        return self.task_subject.recipe(fine_tune)

    def refits(self, fine_tune: bool) -> bool:
        """A student like a network from nothing; what is trained on where the recipe's length is settled."""
        if self._settings.method == "distil":
            return self.task_subject.refits(fine_tune=False)
        return self.recipe(fine_tune).whole_length

    def learner(self, everything: bool) -> Learner:
        """The task's batches, with the teacher's answers; for `qat` asked of the rounded network."""
        teacher = self.task_subject.model()
        if self._settings.method == "qat":
            return rounded_training(self, teacher, self._settings, everything=everything)[0]
        return _taught(self.task_subject, teacher, self._settings, everything, self._others)


def _taught(
    subject: Subject,
    teacher: torch.nn.Module,
    settings: Compression,
    everything: bool,
    others: Sequence[torch.nn.Module] = (),
) -> DistilLearner:
    teaching = Teaching(
        classes=subject.form.labels is not None,
        hints=cast(Narrowable, subject).hints,
        temperature=settings.temperature,
        soft_share=settings.soft_share,
        hint_weight=settings.hint_weight,
    )
    return DistilLearner(cast(Teachable, subject.learner(everything)), teacher, teaching, others)
