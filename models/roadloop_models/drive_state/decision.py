"""From the model's answers and the window that it saw to what the vehicle says: speed ahead, state, oddness."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from roadloop_models.drive_state.signals import CLIP, COUNT, NAMES, SIGNALS, SPEED
from roadloop_models.drive_state.window import scale_rows, statistics
from roadloop_models.errors import FailedError, ModelInputError

FloatArray = npt.NDArray[np.float32]

STATES = ("free", "normal", "jam")
OUTPUTS = ("state", "speed_change", "expected", "limit")
STATISTICS = 2
_SHAPES = ((1, len(STATES)), (1, 1), (1, STATISTICS * COUNT), (1, STATISTICS * COUNT))


@dataclass(frozen=True, slots=True)
class Answers:
    """What the model says of one window."""

    probabilities: tuple[float, ...]
    """Of free, normal, jam."""
    speed_change_mps: float
    """From the last row to 10 s later."""
    expected: FloatArray
    """float32 [signals, 2]: level and movement that each signal should have, from the others."""
    limit: FloatArray
    """float32 [signals, 2]: the error that one in a hundred windows of sound signals exceeds."""


@dataclass(frozen=True, slots=True)
class DriveState:
    """What the vehicle says at the end of a window."""

    speed_10s_mps: float
    """NaN where the last row does not know the speed."""
    state: str
    confidence: float
    """The state's probability, 0 to 1."""
    probabilities: tuple[float, ...]
    anomaly: float
    """The largest oddness of a signal; NaN where no signal is known well enough to be compared.

    1 is what one of a signal's two statistics exceeds in one of a hundred windows of sound signals.
    """
    anomaly_signal: str | None
    """The signal of that oddness."""
    oddness: tuple[float, ...]
    """Of each signal; NaN where it is unknown."""


class ReadAnswers:
    """Output tensors -> `Answers`."""

    def __call__(self, outputs: tuple[FloatArray, ...]) -> Answers:
        """Raises ModelInputError where the model has other outputs, FailedError where they are not finite."""
        if tuple(array.shape for array in outputs) != _SHAPES:
            shapes = ", ".join(str(list(array.shape)) for array in outputs)
            raise ModelInputError(f"the model answers {shapes}; drive-state reads {', '.join(OUTPUTS)}")
        state, change, expected, log_limit = outputs
        if not all(np.isfinite(array).all() for array in outputs):
            raise FailedError("the model answers with values that are not finite")
        odds = np.exp(state[0] - state[0].max())
        return Answers(
            probabilities=tuple((odds / odds.sum()).tolist()),
            speed_change_mps=float(change[0, 0]) * SIGNALS[SPEED].scale,
            expected=expected.reshape(COUNT, STATISTICS),
            limit=np.exp(np.clip(log_limit, -2 * CLIP, 2 * CLIP)).reshape(COUNT, STATISTICS),
        )


def decide(values: FloatArray, answers: Answers) -> DriveState:
    """Compare a window, float32 [120, 16] in the catalogue's units, with what the model answered to it."""
    observed = statistics(*scale_rows(values))
    ratios = np.where(observed.seen, np.abs(observed.values - answers.expected) / answers.limit, -1.0).max(axis=1)
    oddness = np.where(ratios < 0, np.nan, ratios)
    oddest = int(ratios.argmax())
    comparable = bool(ratios[oddest] >= 0)
    state = max(range(len(STATES)), key=answers.probabilities.__getitem__)
    return DriveState(
        speed_10s_mps=max(float(values[-1, SPEED]) + answers.speed_change_mps, 0.0)
        if math.isfinite(values[-1, SPEED])
        else math.nan,
        state=STATES[state],
        confidence=answers.probabilities[state],
        probabilities=answers.probabilities,
        anomaly=float(ratios[oddest]) if comparable else math.nan,
        anomaly_signal=NAMES[oddest] if comparable else None,
        oddness=tuple(oddness.tolist()),
    )
