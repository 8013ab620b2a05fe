"""Position and heading in the plane: an extended Kalman filter over odometer, gyro and, where seen, positions."""

from dataclasses import dataclass
from math import atan2, cos, hypot, sin, sqrt

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
GYRO_RPS_PER_ROOT_HZ = 0.003
"""Noise of the yaw rate, that of consumer gyros in a moving car."""
GYRO_SCALE = 0.01
"""Share of each turn that is uncertain."""
BIAS_SIGMA_RPS = 0.01
BIAS_WALK_RPS_PER_ROOT_S = 2e-5
SLIP_MPS_PER_ROOT_HZ = 0.1
"""Noise of the distance on top of what is known of the odometer, while the vehicle moves."""
SCALE_SIGMA = 0.01
"""Of the odometer's scale after its calibration."""
FIX_SIGMA_M = 2.0
"""Of a position that does not tell its accuracy, on each axis."""
MOVED_M = 3.0
"""Travel after which the course between two positions says where the vehicle heads."""
COURSE_SPEED_MPS = 2.0
_COURSE_SIGMA_RAD = 0.3
_LOST_YAW_RPS_PER_ROOT_HZ = 0.2
_JUMP_SIGMAS = 5.0
_E, _N, _PSI, _BIAS, _SCALE = range(5)


@dataclass(frozen=True, slots=True)
class Fix:
    """A position in metres east and north of the first one."""

    east_m: float
    north_m: float
    sigma_m: float
    course_rad: float | None
    """Clockwise from north, where the reference gives one and the vehicle is quick enough for it to mean something."""


class PlanarFilter:
    """State: east, north (m), heading (rad, clockwise from north), gyro bias (rad/s), rest of the odometer's scale.

    It starts when the first positions, MOVED_M apart, or a course have told the heading.
    """

    def __init__(self) -> None:
        self._first: Fix | None = None
        self._state: FloatArray | None = None
        self._covariance: FloatArray = np.zeros((5, 5))

    @property
    def started(self) -> bool:
        """Whether the heading is known."""
        return self._state is not None

    @property
    def position_m(self) -> tuple[float, float]:
        """East and north."""
        assert self._state is not None
        return float(self._state[_E]), float(self._state[_N])

    @property
    def heading_rad(self) -> float:
        """Clockwise from north, 0 to 2 pi."""
        assert self._state is not None
        return float(self._state[_PSI]) % (2 * np.pi)

    @property
    def sigma_m(self) -> float:
        """Root mean square error of the position that the filter expects."""
        return sqrt(self._covariance[_E, _E] + self._covariance[_N, _N])

    def move(self, seconds: float, distance_m: float, yaw_rate_rps: float | None, spread_m2: float = 0.0) -> None:
        """One step of dead reckoning. `spread_m2`: variance of the distance beyond what is usual.

        Without a yaw rate the heading is kept and its uncertainty grows quickly.
        """
        if self._state is None or seconds <= 0.0:
            return
        x = self._state
        turn = 0.0 if yaw_rate_rps is None else -(yaw_rate_rps - x[_BIAS]) * seconds
        middle = x[_PSI] + turn / 2
        ahead_e, ahead_n = sin(middle), cos(middle)
        travelled = distance_m * (1.0 - x[_SCALE])
        step_e, step_n = travelled * ahead_e, travelled * ahead_n
        transition = np.eye(5)
        transition[_E, _PSI], transition[_N, _PSI] = step_n, -step_e
        if yaw_rate_rps is not None:
            transition[_E, _BIAS], transition[_N, _BIAS] = step_n * seconds / 2, -step_e * seconds / 2
            transition[_PSI, _BIAS] = seconds
        transition[_E, _SCALE], transition[_N, _SCALE] = -distance_m * ahead_e, -distance_m * ahead_n
        moving = min(1.0, abs(distance_m) / seconds)
        along = SLIP_MPS_PER_ROOT_HZ**2 * seconds * moving + spread_m2
        noise = np.zeros((5, 5))
        noise[_E, _E], noise[_N, _N] = along * ahead_e * ahead_e, along * ahead_n * ahead_n
        noise[_E, _N] = noise[_N, _E] = along * ahead_e * ahead_n
        gyro = _LOST_YAW_RPS_PER_ROOT_HZ if yaw_rate_rps is None else GYRO_RPS_PER_ROOT_HZ
        noise[_PSI, _PSI] = gyro**2 * seconds + (GYRO_SCALE * turn) ** 2
        noise[_BIAS, _BIAS] = BIAS_WALK_RPS_PER_ROOT_S**2 * seconds
        x[:3] += (step_e, step_n, turn)
        self._covariance = transition @ self._covariance @ transition.T + noise

    def see(self, fix: Fix) -> None:
        """Take in a position. One that is far from what is believed possible replaces the believed one."""
        if self._state is None:
            self._start(fix)
            return
        innovation = np.array([fix.east_m, fix.north_m]) - self._state[:2]
        spread = self._covariance[:2, :2] + np.eye(2) * fix.sigma_m**2
        if innovation @ np.linalg.solve(spread, innovation) > _JUMP_SIGMAS**2:
            self._covariance[:2, :2] += np.eye(2) * float(innovation @ innovation)
            spread = self._covariance[:2, :2] + np.eye(2) * fix.sigma_m**2
        gain = self._covariance[:, :2] @ np.linalg.inv(spread)
        self._state += gain @ innovation
        kept = np.eye(5)
        kept[:, :2] -= gain
        # Joseph's form: stays symmetric and positive whatever is rounded.
        self._covariance = kept @ self._covariance @ kept.T + gain @ gain.T * fix.sigma_m**2

    def _start(self, fix: Fix) -> None:
        if fix.course_rad is not None:
            course = fix.course_rad
        else:
            if self._first is None:
                self._first = fix
            east, north = fix.east_m - self._first.east_m, fix.north_m - self._first.north_m
            if hypot(east, north) < MOVED_M:
                return
            course = atan2(east, north)
        self._state = np.array([fix.east_m, fix.north_m, course, 0.0, 0.0])
        sigmas = (fix.sigma_m, fix.sigma_m, _COURSE_SIGMA_RAD, BIAS_SIGMA_RPS, SCALE_SIGMA)
        self._covariance = np.diag(np.square(sigmas))
