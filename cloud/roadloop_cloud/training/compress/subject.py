"""A task's subject, as it is for compression: the same rows and files, another network and another loss."""

import dataclasses
from collections.abc import Callable
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
from roadloop_models.errors import ConfigError


class Narrowable(Subject, Protocol):
    """A subject whose network comes in several widths."""

    @property
    def hints(self) -> tuple[str, ...]:
        """Submodules whose outputs differ between widths in channels alone."""

    def student(self, share: float) -> torch.nn.Module:
        """A seeded network with at most `share` of the parameters. Raises ConfigError where there is none so small."""

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


def compressed(subject: Subject, settings: Compression) -> Subject:
    """The subject of a compression; `subject` is that of the parent bundle.

    Raises ConfigError where the task's network cannot be compressed that way.
    """
    needed = {"distil": ("student",), "prune": ("pruned",), "qat": ("rounded_recipe",), "quantize": ()}
    if settings.qat_above is not None:
        needed[settings.method] += ("rounded_recipe",)
    if any(not hasattr(subject, name) for name in needed[settings.method]):
        what = "quantization-aware training" if hasattr(subject, "student") else settings.method
        raise ConfigError(f"{what} is not there for this task's network; `--method quantize` is for every task")
    return CompressedSubject(subject, settings)


class CompressedSubject:
    """Stands in the place of the task's own subject while its parent is compressed."""

    def __init__(self, subject: Subject, settings: Compression) -> None:
        self._subject, self._settings = subject, settings

    @property
    def card(self) -> CardTexts:
        """The task's."""
        return self._subject.card

    @property
    def rows(self) -> int:
        """The task's."""
        return self._subject.rows

    @property
    def split_note(self) -> str:
        """The task's."""
        return self._subject.split_note

    @property
    def score_name(self) -> str:
        """The task's."""
        return self._subject.score_name

    @property
    def score(self) -> Callable[[torch.nn.Module], float]:
        """The task's."""
        return self._subject.score

    def calibration(self) -> Calibration:
        """The task's."""
        return self._subject.calibration()

    @cached_property
    def form(self) -> ModelForm:
        """The task's, of another width."""
        form = self._subject.form
        if self._settings.method not in ("distil", "prune"):
            return form
        narrowable = cast(Narrowable, self._subject)
        return dataclasses.replace(form, architecture=narrowable.describe(self.model()))

    def model(self) -> torch.nn.Module:
        """The network to begin with."""
        if self._settings.method == "distil":
            return cast(Narrowable, self._subject).student(self._settings.share)
        if self._settings.method == "prune":
            return cast(Prunable, self._subject).pruned(self._settings.share)
        return self._subject.model()

    def recipe(self, fine_tune: bool) -> Recipe:
        """The task's for this method."""
        if self._settings.method == "distil":
            return cast(Narrowable, self._subject).student_recipe()
        if self._settings.method == "prune":
            return cast(Prunable, self._subject).pruned_recipe()
        return self.rounded_recipe() if self._settings.method == "qat" else self._subject.recipe(fine_tune)

    @property
    def qat_above(self) -> float | None:
        """See `Compression`."""
        return self._settings.qat_above

    def refits(self, fine_tune: bool) -> bool:
        """All rows are trained on where the recipe's length is settled."""
        return self.recipe(fine_tune).whole_length

    def learner(self, everything: bool) -> Learner:
        """The task's batches, with the teacher's answers; for `qat` asked of the rounded network."""
        if self._settings.method == "qat":
            return self.rounded_learner(everything)
        return self._taught(everything, exact=False)

    def rounded_learner(self, everything: bool) -> Learner:
        """For training that goes on quantization-aware."""
        return QatLearner(self._taught(everything, exact=True))

    def rounded_recipe(self) -> Recipe:
        """The task's, with the statistics of batch normalization left as they are: files have them folded in."""
        recipe = cast(Prunable, self._subject).rounded_recipe()
        frozen = [name for name, part in self.model().named_modules() if isinstance(part, torch.nn.BatchNorm2d)]
        return dataclasses.replace(recipe, frozen=tuple(frozen))

    def _taught(self, everything: bool, exact: bool) -> Learner:
        settings = self._settings
        teaching = Teaching(
            classes=self._subject.form.labels is not None,
            hints=cast(Narrowable, self._subject).hints,
            temperature=settings.temperature,
            soft_share=settings.soft_share,
            hint_weight=settings.hint_weight,
        )
        inner = cast(Teachable, self._subject.learner(everything))
        return DistilLearner(inner, self._subject.model(), teaching, exact=exact)
