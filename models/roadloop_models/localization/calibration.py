"""What a reference teaches about the odometer while it is seen: its scale, and how far the network is to be trusted."""

from dataclasses import dataclass
from math import exp

FORGET_S = 400.0
SCALE_PRIOR_M2PS = 1e4
"""What the assumption of a right scale weighs: as much as 100 s at 10 m/s."""
GAIN_PRIOR_M2PS = 0.3
"""What the assumption of a useless network weighs: as much as 30 s of corrections of 0.1 m/s."""
SCALE_LIMIT = 0.05


@dataclass(frozen=True, slots=True)
class Correction:
    """How a distance of the odometer is corrected: distance * (1 - scale) - gain * what the network says."""

    scale: float = 0.0
    gain: float = 0.0

    def apply(self, distance_m: float, drift_m: float) -> float:
        """The corrected distance of one step. It never turns round: forward stays forward."""
        corrected = distance_m * (1.0 - self.scale) - self.gain * drift_m
        return max(corrected, 0.0) if distance_m >= 0.0 else corrected


class SpeedCalibration:
    """Recursive least squares of (odometer - reference) on (odometer, network), with forgetting.

    Both coefficients are shrunk towards 0 and bounded (scale within +-5 %, gain 0 to 1): with little evidence, or with
    a network that does not fit this vehicle, what is left is the plain odometer.
    """

    def __init__(self) -> None:
        # Sums over time of the products of odometer speed (v), network (c) and error (e), all in m/s.
        self._vv = self._vc = self._cc = self._ve = self._ce = 0.0
        self._correction = Correction()

    @property
    def correction(self) -> Correction:
        """The present estimate."""
        return self._correction

    def learn(self, seconds: float, odometer_m: float, drift_m: float, reference_m: float) -> None:
        """Take in one interval: what odometer, network and reference said of the distance in it."""
        if seconds <= 0.0:
            return
        keep = exp(-seconds / FORGET_S)
        error_m = odometer_m - reference_m
        self._vv = keep * self._vv + odometer_m * odometer_m / seconds
        self._vc = keep * self._vc + odometer_m * drift_m / seconds
        self._cc = keep * self._cc + drift_m * drift_m / seconds
        self._ve = keep * self._ve + odometer_m * error_m / seconds
        self._ce = keep * self._ce + drift_m * error_m / seconds
        self._correction = self._solve()

    def _solve(self) -> Correction:
        vv, cc = self._vv + SCALE_PRIOR_M2PS, self._cc + GAIN_PRIOR_M2PS
        determinant = vv * cc - self._vc * self._vc
        gain = (vv * self._ce - self._vc * self._ve) / determinant
        gain = min(max(gain, 0.0), 1.0)
        scale = (self._ve - gain * self._vc) / vv
        return Correction(min(max(scale, -SCALE_LIMIT), SCALE_LIMIT), gain)
