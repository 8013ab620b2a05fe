"""What the loop of a task may do by itself: when it learns, how often, and how much it may spend."""

from typing import Annotated

import msgspec

from roadloop_cloud.retrain.pipeline import RetrainSpec

Seconds = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]

HOUR_S, DAY_S = 3600.0, 86_400.0


class Triggers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Any of them is enough. A person may always ask."""

    drift: bool = True
    """An alarm about the task that was raised since its last generation began."""
    new_labels: Count | None = None
    """So many labels that came since then."""
    every_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """So long since then."""


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the generations that began within the last `period_s` may have cost together; None: any amount."""

    period_s: Annotated[float, msgspec.Meta(gt=0)] = 7 * DAY_S
    generations: Count = 7
    cpu_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Processor time of snapshot, training, evaluation and publication."""
    delivered_bytes: Count | None = None
    """What all vehicles together have to fetch."""


class LoopPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a person decides about a task's loop, once."""

    retrain: RetrainSpec
    """What each generation is asked for; its task is the loop's."""
    triggers: Triggers = Triggers()
    cool_down_s: Seconds = 6 * HOUR_S
    """From the end of a generation to the beginning of the next one; doubled by each that published nothing."""
    budget: Budget = Budget()
    min_free_bytes: Annotated[int, msgspec.Meta(ge=0)] = 1_000_000_000
    """Room that the disk of the workspace must have."""
