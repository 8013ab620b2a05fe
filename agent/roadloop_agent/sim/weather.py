"""When something begins to be bad, and for how long: pure, from a mean and a source of chance."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Spell:
    """A stretch of time, in seconds since the start."""

    begins_s: float
    ends_s: float


def spells(random: Callable[[], float], every_s: float | None, for_s: float) -> Iterator[Spell]:
    """Without end: good stretches of exponential length with mean `every_s`, bad ones of 0.5 to 1.5 times `for_s`.

    `random` in [0, 1). Nothing where `every_s` is None.
    """
    if every_s is None:
        return
    now_s = 0.0
    while True:
        begins_s = now_s - every_s * math.log(1.0 - random())
        now_s = begins_s + for_s * (0.5 + random())
        yield Spell(begins_s, now_s)
