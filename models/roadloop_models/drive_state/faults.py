"""Sensor faults put into sound signals, by a seed: what the anomaly score is judged with."""

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from roadloop_models.drive_state.signals import SIGNALS

FloatArray = npt.NDArray[np.float32]
Fault = Literal["frozen", "stuck", "offset", "noise", "spikes"]
FAULTS: tuple[Fault, ...] = get_args(Fault)

_OFFSET = (0.5, 1.5)
_NOISE = (0.15, 0.5)
_SPIKE = (1.0, 2.5)
"""Sizes in a signal's own scale (`signals.py`), each drawn between the two."""
_SPIKE_SHARE = 0.05
_STUCK = 1.5


def inject(
    values: FloatArray, signal: int, start: int, fault: Fault, generator: np.random.Generator
) -> tuple[FloatArray, float]:
    """(rows [n, signals] with `signal` faulty from row `start` on, mean change of these rows in the signal's scale).

    frozen: it keeps its value. stuck: it jumps to a constant within 1.5 scales of its centre and stays. offset: it is
    0.5 to 1.5 scales too high or too low. noise: Gaussian, 0.15 to 0.5 scales. spikes: one row in twenty is off by 1 to
    2.5 scales.
    """
    spec = SIGNALS[signal]
    sound = values[start:, signal]
    faulty: npt.NDArray[np.floating[Any]]
    match fault:
        case "frozen":
            faulty = np.full_like(sound, sound[0])
        case "stuck":
            faulty = np.full_like(sound, spec.centre + spec.scale * generator.uniform(-_STUCK, _STUCK))
        case "offset":
            faulty = sound + spec.scale * _signed(generator, _OFFSET)
        case "noise":
            faulty = sound + spec.scale * generator.uniform(*_NOISE) * generator.standard_normal(len(sound))
        case "spikes":
            hit = generator.random(len(sound)) < _SPIKE_SHARE
            hit[generator.integers(len(sound))] = True
            faulty = sound + spec.scale * hit * _signed(generator, _SPIKE)
    changed = values.copy()
    changed[start:, signal] = np.where(np.isfinite(sound), faulty, np.nan)
    difference = np.abs(changed[start:, signal] - sound) / np.float32(spec.scale)
    return changed, float(np.nanmean(difference)) if np.isfinite(difference).any() else 0.0


def _signed(generator: np.random.Generator, size: tuple[float, float]) -> float:
    return float(generator.uniform(*size) * generator.choice((-1.0, 1.0)))
