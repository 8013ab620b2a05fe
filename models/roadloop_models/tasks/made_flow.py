"""Made counts of a road detector: two rush hours on workdays, one broad hill at weekends, and random arrivals."""

from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from roadloop_models.preprocess import STEPS_PER_DAY
from roadloop_models.tasks.flow_data import FlowRows, step_of

FIRST_DAY = datetime(2016, 1, 4, tzinfo=UTC)
"""A Monday."""
_NIGHT, _DAY, _MORNING, _EVENING = 10.0, 70.0, 70.0, 60.0
_MOOD_STEPS = 36.0
"""How long a busier or a quieter spell lasts."""


def made_flow(days: int, seed: int) -> FlowRows:
    """Counts of `days` days; equal seeds give equal rows. Arrivals are Poisson about a rate that drifts slowly."""
    generator = np.random.Generator(np.random.PCG64(seed))
    steps = step_of(FIRST_DAY) + np.arange(days * STEPS_PER_DAY)
    hour = (steps % STEPS_PER_DAY) * 24.0 / STEPS_PER_DAY
    workday = np.arange(days * STEPS_PER_DAY) // STEPS_PER_DAY % 7 < 5
    rush = _MORNING * _hill(hour, 8.0, 1.2) + _EVENING * _hill(hour, 17.5, 1.6)
    rate = _NIGHT + _DAY * _hill(hour, 13.5, 4.5) + np.where(workday, rush, 0.0)
    return FlowRows(steps, generator.poisson(rate * _mood(len(steps), generator)).astype(np.float32))


def _hill(hour: npt.NDArray[np.float64], top: float, width: float) -> npt.NDArray[np.float64]:
    return np.exp(-0.5 * ((hour - top) / width) ** 2)


def _mood(count: int, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """A factor around 1 that wanders."""
    kept = np.exp(-1.0 / _MOOD_STEPS)
    mood = generator.normal(0, 0.15 * np.sqrt(1 - kept**2), size=count)
    for index in range(1, count):
        mood[index] += kept * mood[index - 1]
    return np.exp(mood)
