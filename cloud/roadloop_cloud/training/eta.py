"""How long a stage will still take, by how fast it went."""

import time
from collections import deque
from collections.abc import Callable

import msgspec

from roadloop_cloud.training.spec import TrainingProgress

_REMEMBERED = 8
"""Steps whose pace counts: a machine that got busy is noticed after a few of them."""


class Eta:
    """Adds to each line of progress the seconds that its stage still needs, once two steps have shown the pace."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives monotonic seconds."""
        self._clock = clock
        self._stage = ""
        self._seen: deque[tuple[int, float]] = deque(maxlen=_REMEMBERED)

    def __call__(self, step: TrainingProgress) -> TrainingProgress:
        """The same line with `eta_s`. A stage that goes on after a kill counts from where it goes on."""
        now_s = self._clock()
        if step.stage != self._stage or (self._seen and step.done < self._seen[-1][0]):
            self._stage = step.stage
            self._seen.clear()
        if step.resumed:
            self._seen.clear()
        self._seen.append((step.done, now_s))
        (first, start_s), (last, end_s) = self._seen[0], self._seen[-1]
        if last == first:
            return step
        eta_s = (end_s - start_s) / (last - first) * max(step.total - last, 0)
        return msgspec.structs.replace(step, eta_s=eta_s)


def in_words(step: TrainingProgress) -> str:
    """For people: `train 3/24: loss 0.71, score 0.02; 2.5 min left`; what has nothing to say is named alone."""
    if not step.message:
        return step.stage
    said = f"{step.stage} {step.done}/{step.total}: {step.message}"
    if step.eta_s is None:
        return said
    left = f"{step.eta_s:.0f} s" if step.eta_s < 120 else f"{step.eta_s / 60:.1f} min"
    return f"{said}; {left} left"
