"""Distillation: a student learns the labels and, beside them, what its teacher answers and where it looks.

Answers: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015. Hints: the attention maps of
Zagoruyko and Komodakis, "Paying More Attention to Attention", 2017; they have no channels, so that networks of
different widths can be compared without layers in between that would have to be learned too.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from roadloop_cloud.training.train import Batch, Learner


class Teachable(Learner, Protocol):
    """A learner whose loss can be asked of an answer that is there already."""

    def inputs(self, batch: Batch) -> Batch:
        """What of a batch the model takes."""

    def loss_of(self, answer: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The loss of that answer."""


@dataclass(frozen=True)
class Teaching:
    """What the student is taught with; see `Compression`."""

    classes: bool
    """Whether answers are logits; else they are values, and compared by their squared difference."""
    hints: tuple[str, ...]
    """Submodules whose outputs [n, channels, height, width] differ between the two networks in channels alone."""
    temperature: float
    soft_share: float
    hint_weight: float


class DistilLearner:
    """The batches of another learner, with the teachers' answers to them in the loss.

    Of several teachers the mean of their answers counts (networks that began differently err differently), and the
    hints of the first.
    """

    def __init__(
        self, inner: Teachable, teacher: torch.nn.Module, teaching: Teaching, others: Sequence[torch.nn.Module] = ()
    ) -> None:
        self._inner, self._teacher, self._teaching = inner, teacher.eval(), teaching
        self._others = [other.eval() for other in others]

    @property
    def batches_per_epoch(self) -> int:
        """As many as the inner learner has."""
        return self._inner.batches_per_epoch

    def batches(self, generator: torch.Generator) -> Iterator[Batch]:
        """Those of the inner learner."""
        return self._inner.batches(generator)

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The label's part, the teacher's, and that of the hints."""
        teaching, inputs = self._teaching, self._inner.inputs(batch)
        with torch.no_grad(), tapped(self._teacher, teaching.hints) as wanted:
            target = self._teacher(*inputs)
            if self._others:
                target = torch.stack([target, *(other(*inputs) for other in self._others)]).mean(dim=0)
        with tapped(model, teaching.hints) as found:
            answer = model(*inputs)
        hard = self._inner.loss_of(answer, batch)
        soft = soft_loss(answer, target, teaching.temperature) if teaching.classes else F.mse_loss(answer, target)
        hint = sum((attention_distance(found[name], wanted[name]) for name in teaching.hints), torch.zeros(()))
        return (1.0 - teaching.soft_share) * hard + teaching.soft_share * soft + teaching.hint_weight * hint


def soft_loss(answer: torch.Tensor, target: torch.Tensor, temperature: float) -> torch.Tensor:
    """Kullback-Leibler divergence of softened classes, logits [n, classes]; of the size that it has at temperature 1.

    Gradients shrink with the square of the temperature, so the loss is multiplied by it.
    """
    softened = F.log_softmax(answer / temperature, dim=1)
    divergence = F.kl_div(softened, F.log_softmax(target / temperature, dim=1), reduction="batchmean", log_target=True)
    return divergence * temperature**2


def attention_distance(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Between two activations [n, channels, h, w]: squared difference of their unit attention maps, 0 to 2 or so."""
    return (_attention(found) - _attention(wanted)).square().sum(dim=1).mean()


def _attention(activation: torch.Tensor) -> torch.Tensor:
    return F.normalize(activation.square().mean(dim=1).flatten(1), dim=1)


@contextmanager
def tapped(model: torch.nn.Module, names: tuple[str, ...]) -> Iterator[dict[str, torch.Tensor]]:
    """What these submodules answer while the model is called inside."""
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str, answer: torch.Tensor) -> None:
        outputs[name] = answer

    with ExitStack() as stack:
        for name in names:
            hook = model.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, answer, name=name: keep(name, answer)
            )
            stack.callback(hook.remove)
        yield outputs
