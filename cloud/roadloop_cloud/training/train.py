"""The training loop: seeded, with an average of the weights over the last steps, its length chosen by validation."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch

from roadloop_cloud.training.weights import State

Batch = tuple[torch.Tensor, ...]
OnEpoch = Callable[[int, int, str], None]
"""Called with (epoch, epochs, what it reached)."""


@dataclass(frozen=True)
class Recipe:
    """How long and how hard to train."""

    epochs: int
    peak_rate: float
    weight_decay: float
    ema_decay: float
    """Of the average of the weights, per step; shorter at the start."""
    warmup_share: float = 0.15
    clip_norm: float | None = None
    frozen: tuple[str, ...] = field(default=())
    """Names of submodules that keep their weights."""
    whole_length: bool = False
    """Whether the last epoch is kept, whatever validation says: for a recipe whose length is settled."""


class Learner(Protocol):
    """The task's side of training."""

    def batches(self, generator: torch.Generator) -> Iterator[Batch]:
        """One epoch of batches, drawn and varied by `generator`."""

    @property
    def batches_per_epoch(self) -> int:
        """How many batches an epoch has."""

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """What is minimized."""


@dataclass(frozen=True)
class Fitted:
    """The outcome: averaged weights, the epoch they are of, and the validation score (lower is better)."""

    state: State
    epoch: int
    score: float | None


def fit(
    model: torch.nn.Module,
    learner: Learner,
    recipe: Recipe,
    *,
    seed: int,
    on_epoch: OnEpoch,
    score: Callable[[torch.nn.Module], float] | None,
    last_epoch: int | None = None,
) -> Fitted:
    """Train `model`; returns the averaged weights of the best epoch by `score`, or of the last without one.

    With a `score` the weights at the start compete too, as epoch 0. `last_epoch` stops earlier on the same schedule.
    Equal seeds, rows and threads give equal weights on the same machine.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    optimizer, schedule = _optimizer(model, recipe, recipe.epochs * learner.batches_per_epoch)
    average = _Average(model, recipe.ema_decay)
    best = Fitted(average.state(), 0, None if score is None else score(average.model))
    for epoch in range(1, (last_epoch or recipe.epochs) + 1):
        _set_training(model, recipe.frozen)
        for batch in learner.batches(generator):
            loss = learner.loss(model, batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if recipe.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            optimizer.step()
            schedule.step()
            average.add(model)
        reached = None if score is None else score(average.model)
        better = best.score is None or reached is None or reached < best.score
        if better or recipe.whole_length:
            best = Fitted(average.state(), epoch, reached)
        on_epoch(
            epoch, recipe.epochs, f"loss {loss.item():.4g}" + ("" if reached is None else f", score {reached:.4g}")
        )
    return best


class _Average:
    """The exponential moving average of a model's weights and of its buffers."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval()
        self._decay = decay
        self._steps = 0

    def add(self, model: torch.nn.Module) -> None:
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        with torch.no_grad():
            for mean, value in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
                if mean.is_floating_point():
                    mean.mul_(decay).add_(value, alpha=1 - decay)

    def state(self) -> State:
        return {name: value.clone() for name, value in self.model.state_dict().items()}


def _optimizer(
    model: torch.nn.Module, recipe: Recipe, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    for name in recipe.frozen:
        model.get_submodule(name).requires_grad_(False)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.peak_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.peak_rate, total_steps=steps, pct_start=recipe.warmup_share
    )
    return optimizer, schedule


def _set_training(model: torch.nn.Module, frozen: tuple[str, ...]) -> None:
    model.train()
    for name in frozen:  # batch normalization of a frozen part must not follow the new rows either
        model.get_submodule(name).eval()
