"""What each task calls deciding otherwise; one module per task, named by `ON_BOARD`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from roadloop_agent.drive.pipeline import Model
from roadloop_agent.drive.shadow.wire import Seen

DecidedT = TypeVar("DecidedT")


@dataclass(frozen=True)
class Decided(Generic[DecidedT]):
    """What a model decided, and how sure it was: 0 to 1; None where the task does not say."""

    what: DecidedT
    confidence: float | None


def accept(candidate: Model, incumbent: Model) -> None:
    """Any two models of one task can be compared."""


def accept_equal_input(candidate: Model, incumbent: Model) -> None:
    """What was seen is in the incumbent's tensors already. Raises ConfigError where the candidate wants others."""
    from roadloop_models.errors import ConfigError

    one, other = candidate.bundle.manifest.preprocess, incumbent.bundle.manifest.preprocess
    if one != other:
        raise ConfigError(
            f"{candidate.name} cannot run in the shadow of {incumbent.name}: it is fed by {one.name} "
            f"{one.params}, the other by {other.name} {other.params}"
        )


@dataclass(frozen=True)
class Comparison(Generic[DecidedT]):
    """`decide` is pure: the same for the same model and the same that was seen. It raises RoadloopError."""

    decide: Callable[[Model, Seen], Decided[DecidedT]]
    agree: Callable[[DecidedT, DecidedT], bool]
    accept: Callable[[Model, Model], None] = accept
    """(candidate, incumbent): raises ConfigError where they cannot be compared."""


AnyComparison = Comparison[Any]
