"""The training loop: seeded, with an average of the weights over the last steps, its length chosen by validation.

Where the rate is held instead of going down to nothing, the weights wander around the middle of a wide valley, and
their average is near that middle: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization",
2018.

It goes on after a kill: what it needs for that is saved after an epoch, and the weights at the end are the same.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import torch

from roadloop_cloud.training.checkpoint import Checkpoints, Saved
from roadloop_cloud.training.ranks import Ranks
from roadloop_cloud.training.weights import State
from roadloop_models.errors import FailedError

Batch = tuple[torch.Tensor, ...]
OnEpoch = Callable[[int, int, str], None]
"""Called with (epoch, epochs, what it reached)."""
_FIRST_RATE = 0.05
_HELD_FROM = 0.5


@dataclass(frozen=True)
class Recipe:
    """How long and how hard to train."""

    epochs: int
    peak_rate: float
    weight_decay: float
    ema_decay: float
    """Of the average of the weights, per step; shorter at the start."""
    warmup_share: float = 0.15
    held_rate: float | None = None
    """Share of the peak rate that the second half of the steps keeps; without it the rate goes down to nothing."""
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
class EpochFigures:
    """One epoch of a training curve."""

    loss: float
    """Mean over the epoch's batches."""
    score: float | None
    """Of the averaged weights on validation rows; lower is better."""
    rate: float
    """Learning rate of the last step."""


@dataclass(frozen=True)
class Fitted:
    """The outcome: averaged weights, the epoch they are of, and the validation score (lower is better)."""

    state: State
    epoch: int
    score: float | None
    history: tuple[EpochFigures, ...] = ()


def fit(
    model: torch.nn.Module,
    learner: Learner,
    recipe: Recipe,
    *,
    seed: int,
    on_epoch: OnEpoch,
    score: Callable[[torch.nn.Module], float] | None,
    last_epoch: int | None = None,
    checkpoints: Checkpoints | None = None,
    ranks: Ranks | None = None,
    on_resume: OnEpoch | None = None,
) -> Fitted:
    """Train `model`; returns the averaged weights of the best epoch by `score`, or of the last without one.

    With a `score` the weights at the start compete too, as epoch 0. `last_epoch` stops earlier on the same schedule.
    Equal seeds, rows, ranks and threads give equal weights on the same machine, also where `checkpoints` of a run that
    was killed are gone on from; `on_resume` is then told after which epoch. Raises DiskFullError, and FailedError where
    the ranks found different checkpoints.
    """
    ranks = ranks or Ranks()
    last = last_epoch or recipe.epochs
    run = _Run(model, learner, recipe, seed, ranks)
    saved = None if checkpoints is None else checkpoints.load()
    resumed = saved is not None and run.restore(saved)
    if ranks.first_says(run.epoch) != run.epoch:
        raise FailedError("workers that train together found different checkpoints; they must see the same files")
    if resumed:
        (on_resume or on_epoch)(run.epoch, recipe.epochs, f"goes on after epoch {run.epoch}")
    else:
        run.begin(score)
    while run.epoch < last:
        said = run.advance(score)
        # Before anybody is told: who is told of an epoch finds it again after a kill.
        if checkpoints is not None:
            states = ranks.gather(run.random_state())
            if ranks.is_first:
                checkpoints.save(lambda: run.saved(states), last=run.epoch == last)  # noqa: B023 - called at once
        on_epoch(run.epoch, recipe.epochs, said)
    return Fitted(run.best.state, run.best.epoch, run.best.score, tuple(run.history))


class _Run:
    """All that changes while a model is trained."""

    def __init__(self, model: torch.nn.Module, learner: Learner, recipe: Recipe, seed: int, ranks: Ranks) -> None:
        self._model, self._learner, self._recipe, self._ranks = model, learner, recipe, ranks
        self._generator = torch.Generator().manual_seed(ranks.seed(seed))
        torch.manual_seed(ranks.seed(seed))
        self._steps = max(learner.batches_per_epoch // ranks.count, 1)
        self._optimizer, self._schedule = _optimizer(model, recipe, recipe.epochs * self._steps)
        self._average = _Average(model, recipe.ema_decay)
        self.epoch = 0
        self.best = Fitted({}, 0, None)
        self.history: list[EpochFigures] = []

    def begin(self, score: Callable[[torch.nn.Module], float] | None) -> None:
        """Let the weights at the start compete."""
        self.best = Fitted(self._average.state(), 0, self._scored(score))

    def advance(self, score: Callable[[torch.nn.Module], float] | None) -> str:
        """Train one epoch; says what it reached."""
        _set_training(self._model, self._recipe.frozen)
        total = torch.zeros(())
        for batch in islice(self._learner.batches(self._generator), self._steps):
            loss = self._learner.loss(self._model, batch)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._ranks.average_gradients(self._model.parameters())
            if self._recipe.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._recipe.clip_norm)
            self._optimizer.step()
            self._schedule.step()
            self._average.add(self._model)
            total += loss.detach()
        self._ranks.average_states(self._model.state_dict(), self._average.model.state_dict())
        reached = self._scored(score)
        mean = float(total) / self._steps
        self.epoch += 1
        self.history.append(EpochFigures(mean, reached, self._schedule.get_last_lr()[0]))
        better = self.best.score is None or reached is None or reached < self.best.score
        if better or self._recipe.whole_length:
            self.best = Fitted(self._average.state(), self.epoch, reached)
        return f"loss {mean:.4g}" + ("" if reached is None else f", score {reached:.4g}")

    def random_state(self) -> torch.Tensor:
        """uint8 [2 n]: the generator of batches, then torch's own."""
        return torch.cat([self._generator.get_state(), torch.get_rng_state()])

    def saved(self, random_states: torch.Tensor) -> Saved:
        """All of it. `random_states` uint8 [ranks, 2 n]."""
        tensors = {"random": random_states}
        states = {"model": self._model.state_dict(), "average": self._average.model.state_dict()}
        for kind, state in {**states, "best": self.best.state}.items():
            tensors |= {f"{kind}/{name}": value for name, value in state.items()}
        moments = self._optimizer.state_dict()["state"]
        for number, values in moments.items():
            tensors |= {f"moment/{number}/{name}": value for name, value in values.items()}
        return Saved(
            tensors,
            {
                "epoch": self.epoch,
                "best": [self.best.epoch, self.best.score],
                "history": [[row.loss, row.score, row.rate] for row in self.history],
                "steps": self._average.steps,
                "schedule_steps": self._schedule.last_epoch,
                "groups": [{name: group[name] for name in ("lr", "betas")} for group in self._optimizer.param_groups],
            },
        )

    def restore(self, saved: Saved) -> bool:
        """Take up what was saved; False where it does not fit this model and these ranks, and nothing was changed."""
        tensors, facts = saved.tensors, saved.facts
        model, average = _below(tensors, "model"), _below(tensors, "average")
        if not _fits(model, self._model.state_dict()) or len(tensors["random"]) != self._ranks.count:
            return False
        self._model.load_state_dict(model)
        self._average.model.load_state_dict(average)
        self._average.steps = int(facts["steps"])
        self._restore_optimizer(_below(tensors, "moment"), facts)
        # Copies: the states are read as aligned C structures, and a view into the middle of a tensor crashes.
        batches, own = (half.clone() for half in tensors["random"][self._ranks.rank].chunk(2))
        self._generator.set_state(batches)
        torch.set_rng_state(own)
        self.epoch = int(facts["epoch"])
        self.best = Fitted(_below(tensors, "best"), *facts["best"])
        self.history = [EpochFigures(*row) for row in facts["history"]]
        return True

    def _restore_optimizer(self, moments: State, facts: Mapping[str, Any]) -> None:
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        for key, value in moments.items():
            number, name = key.split("/")
            parameter = parameters[int(number)]
            # In the parameter's own memory layout: another one could be summed up in another order.
            place = value if value.dim() == 0 else torch.empty_like(parameter).copy_(value)
            self._optimizer.state[parameter][name] = place.detach()
        for group, values in zip(self._optimizer.param_groups, facts["groups"], strict=True):
            group["lr"], group["betas"] = values["lr"], tuple(values["betas"])
        self._schedule.last_epoch = int(facts["schedule_steps"])
        self._schedule._last_lr = [group["lr"] for group in self._optimizer.param_groups]

    def _scored(self, score: Callable[[torch.nn.Module], float] | None) -> float | None:
        if score is None:
            return None
        return self._ranks.first_says(score(self._average.model) if self._ranks.is_first else 0.0)


class _Average:
    """The exponential moving average of a model's weights and of its buffers."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval()
        self.steps = 0
        self._decay = decay

    def add(self, model: torch.nn.Module) -> None:
        self.steps += 1
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
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
    held, warmup = recipe.held_rate, recipe.warmup_share
    if held is None:
        return optimizer, torch.optim.lr_scheduler.OneCycleLR(
            optimizer, recipe.peak_rate, total_steps=steps, pct_start=warmup
        )
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_share(step / steps, warmup, held))


def rate_share(done: float, warmup: float, held: float) -> float:
    """Share of the peak rate after `done` of the steps (0 to 1): up in a line, down in half a cosine, then held."""
    if done < warmup:
        return _FIRST_RATE + (1 - _FIRST_RATE) * done / warmup
    if done < _HELD_FROM:
        return held + (1 - held) * (1 + math.cos(math.pi * (done - warmup) / (_HELD_FROM - warmup))) / 2
    return held


def _set_training(model: torch.nn.Module, frozen: tuple[str, ...]) -> None:
    model.train()
    for name in frozen:  # batch normalization of a frozen part must not follow the new rows either
        model.get_submodule(name).eval()


def _below(tensors: Mapping[str, torch.Tensor], kind: str) -> State:
    return {name.removeprefix(f"{kind}/"): value for name, value in tensors.items() if name.startswith(f"{kind}/")}


def _fits(found: State, wanted: State) -> bool:
    shapes, expected = ({name: value.shape for name, value in state.items()} for state in (found, wanted))
    return shapes == expected
