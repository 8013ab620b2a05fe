"""What a search may change, and what each trial changes: drawn from the seed, so that a trial can be repeated."""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from roadloop_cloud.training.spec import RecipeChanges
from roadloop_models.errors import ConfigError
from roadloop_models.typed import from_builtins

EPOCHS = "epochs"
NAMES = (*RecipeChanges.__struct_fields__, EPOCHS)
_BETWEEN = ".."


@dataclass(frozen=True)
class Axis:
    """The values of one setting: those listed, or all from the first to the last, drawn evenly in the logarithm."""

    values: tuple[float, ...]
    continuous: bool = False

    def draw(self, generator: np.random.Generator) -> float:
        """One of them."""
        if not self.continuous:
            return self.values[int(generator.integers(len(self.values)))]
        low, high = (math.log(value) for value in self.values)
        return float(f"{math.exp(generator.uniform(low, high)):.4g}")


def parse_space(texts: Iterable[str]) -> dict[str, Axis]:
    """`peak_rate=0.001..0.1` (a range) or `weight_decay=0,0.01` (a list). Raises ConfigError naming what is wrong."""
    space: dict[str, Axis] = {}
    for text in texts:
        name, given, values = text.partition("=")
        if name not in NAMES:
            nearest = difflib.get_close_matches(name, NAMES, n=1)
            raise ConfigError(f"'{text}': no setting '{name}'; there are {', '.join(nearest or NAMES)}")
        if not given:
            raise ConfigError(f"'{text}': {name} needs values: {name}=0.001..0.1 or {name}=0.01,0.02")
        space[name] = _axis(text, values)
        for value in space[name].values:
            as_changes({name: value})
    return space


def parse_changes(texts: Iterable[str]) -> dict[str, float]:
    """`peak_rate=0.02`: one value each. Raises ConfigError."""
    changes = {}
    for name, axis in parse_space(texts).items():
        if len(axis.values) != 1:
            raise ConfigError(f"{name}: needs one value")
        changes[name] = axis.values[0]
    return changes


def drawn(space: Mapping[str, Axis], seed: int, trial: int) -> dict[str, float]:
    """What a trial changes. The first changes nothing: what a search finds is held against the task's recipe."""
    if trial == 0:
        return {}
    generator = np.random.Generator(np.random.PCG64([seed, trial]))
    return {name: axis.draw(generator) for name, axis in space.items()}


def as_changes(values: Mapping[str, float]) -> tuple[RecipeChanges, int | None]:
    """(changes of the recipe, epochs) as a spec has them. Raises ConfigError where one is out of its range."""
    epochs = values.get(EPOCHS)
    recipe = {name: value for name, value in values.items() if name != EPOCHS}
    if epochs is not None and (epochs != round(epochs) or not 1 <= epochs <= 1000):
        raise ConfigError(f"{EPOCHS}={epochs:g}: a whole number from 1 to 1000")
    try:
        return from_builtins(recipe, RecipeChanges), None if epochs is None else int(epochs)
    except msgspec.ValidationError as error:
        raise ConfigError(", ".join(f"{name}={value:g}" for name, value in recipe.items()) + f": {error}") from None


def in_words(changes: Mapping[str, float]) -> str:
    """For people, and as the options of `models train`."""
    return ", ".join(f"{name}={value:g}" for name, value in changes.items()) or "the task's recipe"


def _axis(text: str, values: str) -> Axis:
    continuous = _BETWEEN in values
    try:
        numbers = tuple(float(value) for value in values.split(_BETWEEN if continuous else ","))
    except ValueError:
        raise ConfigError(f"'{text}': not numbers; write 0.001..0.1 or 0.01,0.02") from None
    if continuous and (len(numbers) != 2 or not 0 < numbers[0] < numbers[1]):
        raise ConfigError(f"'{text}': a range goes from a number above 0 to a larger one")
    return Axis(numbers, continuous)
