"""What the drift network sees and says: the odometer's last seconds in, the error of its speed out."""

from dataclasses import dataclass
from math import exp, isfinite

import numpy as np
import numpy.typing as npt

from roadloop_models.bundle.manifest import Preprocess
from roadloop_models.errors import FailedError, ModelInputError

FloatArray = npt.NDArray[np.float32]
PERIOD_S = 0.2
"""Between two speeds of a trace."""
WINDOW = 30
CHANNELS = 3
SPEED_SCALE_MPS = 20.0
STEP_LIMIT_MPS = 1.0
STANDING_MPS = 0.4
CORRECTION_SCALE_MPS = 0.1
"""What one unit of the network's first output is worth: both outputs then fill the same 8-bit grid."""
MAX_CORRECTION_MPS = 0.5
DENSITY_SCALE_M2PS = 0.02
LEAST_DENSITY_M2PS = 1e-4
LOG_LIMIT = 6.0


@dataclass(frozen=True)
class SpeedTrace:
    """The odometer's speeds every PERIOD_S, oldest first: float32 [window + 1], m/s."""

    speeds_mps: FloatArray

    @property
    def moved(self) -> bool:
        """Whether any of the speeds is not zero; where all are, there is nothing to correct."""
        return bool(self.speeds_mps.any())


@dataclass(frozen=True, slots=True)
class Drift:
    """What the network says of the odometer now."""

    correction_mps: float
    """How much too fast the odometer is; within +-MAX_CORRECTION_MPS."""
    density_m2ps: float
    """How fast the variance of the distance grows after the correction."""


AT_REST = Drift(0.0, LEAST_DENSITY_M2PS)
UNKNOWN = Drift(0.0, 0.05)
"""Without a network: what the plain odometer of obd_speed_ref drifts, about (2.3 m)^2 in 100 s of driving."""


class SpeedTracePreprocess:
    """`speed-trace`: a `SpeedTrace` -> float32 [1, window, 3].

    The channels are the speed / 20 m/s, the change since the step before in m/s (clipped to +-1), and whether the
    odometer says that the vehicle stands (an odometer says 0 below some walking speed).
    """

    name = "speed-trace"

    def __init__(self, window: int = WINDOW) -> None:
        self._window = window

    @property
    def spec(self) -> Preprocess:
        """What a manifest says to get this very function."""
        return Preprocess(self.name, {"window": self._window})

    @property
    def window(self) -> int:
        """Steps that the network sees."""
        return self._window

    def __call__(self, trace: SpeedTrace) -> tuple[FloatArray]:
        speeds = trace.speeds_mps
        if speeds.shape != (self._window + 1,) or speeds.dtype != np.float32:
            raise ModelInputError(
                f"trace of speeds is {speeds.dtype} {list(speeds.shape)}, expected float32 [{self._window + 1}]"
            )
        return (channels(speeds[np.newaxis]),)


def channels(speeds_mps: FloatArray) -> FloatArray:
    """float32 [n, window + 1] of speeds -> float32 [n, window, 3]; training makes all its rows at once."""
    last = speeds_mps[:, 1:]
    result = np.empty((*last.shape, CHANNELS), dtype=np.float32)
    result[:, :, 0] = last / np.float32(SPEED_SCALE_MPS)
    result[:, :, 1] = np.clip(last - speeds_mps[:, :-1], -STEP_LIMIT_MPS, STEP_LIMIT_MPS)
    result[:, :, 2] = np.abs(last) < STANDING_MPS
    return result


class DriftPostprocess:
    """(correction / 0.1 m/s, logarithm of density / 0.02 m^2/s) float32 [1, 2] -> `Drift`.

    Raises ModelInputError where the output has another shape, FailedError where it is not finite.
    """

    def __call__(self, outputs: tuple[FloatArray, ...]) -> Drift:
        if outputs[0].size != 2:
            raise ModelInputError(f"the model answers {list(outputs[0].shape)}, expected [1, 2]")
        correction, density_log = outputs[0].reshape(-1).tolist()
        if not (isfinite(correction) and isfinite(density_log)):
            raise FailedError("the model answers with values that are not finite")
        limit = MAX_CORRECTION_MPS / CORRECTION_SCALE_MPS
        return Drift(
            CORRECTION_SCALE_MPS * min(max(correction, -limit), limit),
            LEAST_DENSITY_M2PS + DENSITY_SCALE_M2PS * exp(min(max(density_log, -LOG_LIMIT), LOG_LIMIT)),
        )
