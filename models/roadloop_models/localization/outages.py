"""Outages made in a recorded drive: the reference is hidden for a while, then compared with what was dead reckoned.

Plain integration of the same odometer (and gyro) through the very same outages stands beside every figure.
"""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from roadloop_models.geodesy import ecef_from_geodetic, enu_axes
from roadloop_models.localization.sample import Sample
from roadloop_models.localization.session import DriftEstimator, Session
from roadloop_models.localization.trace import Drift, SpeedTrace

FloatArray = npt.NDArray[np.float64]
_EPSILON_S = 1e-3
COURSE_M = 1.0
"""Plain integration heads where the last positions, so far apart, point; the gyro turns that to the present."""


@dataclass(frozen=True, slots=True)
class Ended:
    """One outage at its end; errors are absolute, in metres."""

    start_s: float
    distance_m: float
    """True."""
    along_m: float
    plain_along_m: float
    sigma_m: float
    position_m: float
    """NaN where there are no positions, or the heading was not known."""
    plain_position_m: float
    position_sigma_m: float


class Drive:
    """A recorded drive as samples, with its truth: distance, and position where there is one."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        """Samples without odometer between those that have one are fine; speeds and yaw rates are held."""
        self.samples = tuple(samples)
        self.t_s = np.array([sample.t_s for sample in samples])
        speed, yaw = _held([sample.speed_mps for sample in samples]), _held([sample.yaw_rate_rps for sample in samples])
        self._steps_m = np.diff(self.t_s) * (speed[1:] + speed[:-1]) / 2
        self._turns = -np.diff(self.t_s) * (yaw[1:] + yaw[:-1]) / 2
        self._positions_m = _positions(samples)
        self._distance_m = self._travelled()

    @property
    def has_positions(self) -> bool:
        """Whether the truth has positions."""
        return bool(np.isfinite(self._positions_m).any())

    def starts(self, length_s: float, first_s: float, every_s: float, end_s: float = np.inf) -> list[int]:
        """Rows with a truth at which an outage of that length can begin, every so often from `first_s` on, and end by
        `end_s` (both after the first row)."""
        last_s = min(self.t_s[-1], self.t_s[0] + end_s) - length_s
        rows = np.searchsorted(self.t_s, np.arange(self.t_s[0] + first_s, last_s + _EPSILON_S, every_s) - _EPSILON_S)
        return sorted({self._known(int(row)) for row in rows if self.t_s[row] <= last_s + _EPSILON_S})

    def end(self, start: int, length_s: float) -> int:
        """The last row of an outage that begins at row `start`."""
        return self._known(int(np.searchsorted(self.t_s, self.t_s[start] + length_s + _EPSILON_S)) - 1)

    def run(
        self,
        starts: dict[int, tuple[float, ...]],
        window: int,
        estimate_drift: DriftEstimator | None,
        progress: Callable[[int, int], None],
    ) -> dict[float, list[Ended]]:
        """`starts`: row -> lengths of the outages that begin there; returns the outages by length.

        `window` is that of the model, as `Session` takes it.
        """
        ended: dict[float, list[Ended]] = {}
        session = Session(window)
        remembered = None if estimate_drift is None else _Remembered(estimate_drift)
        for row, sample in enumerate(self.samples):
            if row in starts:
                self._outage(copy.deepcopy(session), row, starts[row], remembered, ended)
            session.step(sample, remembered)
            if row % 100 == 0:
                progress(row, len(self.samples))
        progress(len(self.samples), len(self.samples))
        return ended

    def _outage(
        self,
        session: Session,
        start: int,
        lengths_s: tuple[float, ...],
        estimate_drift: DriftEstimator | None,
        ended: dict[float, list[Ended]],
    ) -> None:
        ends = {self.end(start, length_s): length_s for length_s in lengths_s}
        first = None
        for row in range(start, max(ends) + 1):
            estimate = session.step(dataclasses.replace(self.samples[row], reference=None), estimate_drift)
            first = first or estimate
            if row in ends:
                plain_m, plain_along_m = self._plain(start, row)
                true_m = self._positions_m[row]
                distance_m = float(self._distance_m[row] - self._distance_m[start])
                found_m = np.array([estimate.east_m, estimate.north_m], dtype=np.float64)
                ended.setdefault(ends[row], []).append(
                    Ended(
                        start_s=float(self.t_s[start]),
                        distance_m=distance_m,
                        along_m=abs(estimate.along_m - first.along_m - distance_m),
                        plain_along_m=abs(plain_along_m - distance_m),
                        sigma_m=estimate.sigma_m,
                        position_m=float(np.hypot(*(found_m - true_m))),
                        plain_position_m=float(np.hypot(*(plain_m - true_m))),
                        position_sigma_m=np.nan if estimate.position_sigma_m is None else estimate.position_sigma_m,
                    )
                )

    def _plain(self, start: int, end: int) -> tuple[FloatArray, float]:
        """(position, distance) of plain integration from the truth at row `start`."""
        steps_m, turns = self._steps_m[start:end], self._turns[start:end]
        position_m = self._positions_m[start].copy()
        before = self._positions_m[: start + 1]
        far = np.flatnonzero(np.hypot(*(position_m - before).T) >= COURSE_M)
        if len(far) == 0:
            return np.full(2, np.nan), float(steps_m.sum())
        course = np.arctan2(*(position_m - before[far[-1]])) + self._turns[far[-1] : start].sum() / 2
        heading = course + np.cumsum(turns) - turns / 2
        position_m += (steps_m * np.sin(heading)).sum(), (steps_m * np.cos(heading)).sum()
        return position_m, float(steps_m.sum())

    def _known(self, row: int) -> int:
        """The last row up to `row` that has a truth."""
        while row > 0 and not np.isfinite(self._distance_m[row]):
            row -= 1
        return row

    def _travelled(self) -> FloatArray:
        """True distance since the first row; NaN in rows without a truth."""
        references = [sample.reference for sample in self.samples]
        speeds = np.array(
            [np.nan if found is None or found.speed_mps is None else found.speed_mps for found in references]
        )
        distance_m = np.full(len(references), np.nan)
        known = np.flatnonzero(np.isfinite(speeds))
        if len(known):
            steps_m = np.diff(self.t_s[known]) * (speeds[known][1:] + speeds[known][:-1]) / 2
        else:
            known = np.flatnonzero(np.isfinite(self._positions_m[:, 0]))
            steps_m = np.hypot(*np.diff(self._positions_m[known], axis=0).T)
        distance_m[known] = np.concatenate([[0.0], np.cumsum(steps_m)])
        return distance_m


class _Remembered:
    """Outages overlap: the network is asked once for each trace."""

    def __init__(self, estimate_drift: DriftEstimator) -> None:
        self._estimate_drift = estimate_drift
        self._known: dict[bytes, Drift] = {}

    def __call__(self, trace: SpeedTrace) -> Drift:
        key = trace.speeds_mps.tobytes()
        if key not in self._known:
            self._known[key] = self._estimate_drift(trace)
        return self._known[key]


def _held(values: Sequence[float | None]) -> FloatArray:
    """float64 [n]: each value until the next one; 0 before the first."""
    held, last = np.zeros(len(values)), 0.0
    for row, value in enumerate(values):
        last = last if value is None else value
        held[row] = last
    return held


def _positions(samples: Sequence[Sample]) -> FloatArray:
    """Metres east and north of the first position, float64 [n, 2]; NaN in samples without one."""
    positions_m = np.full((len(samples), 2), np.nan)
    rows = [row for row, sample in enumerate(samples) if sample.reference is not None and sample.reference.has_position]
    if rows:
        places = [samples[row].reference for row in rows]
        latitude = np.array([place.latitude_deg for place in places if place is not None], dtype=np.float64)
        longitude = np.array([place.longitude_deg for place in places if place is not None], dtype=np.float64)
        ecef_m = ecef_from_geodetic(latitude, longitude, np.zeros(len(rows)))
        axes = enu_axes(float(latitude[0]), float(longitude[0]))
        positions_m[rows] = ((ecef_m - ecef_m[0]) @ axes.T)[:, :2]
    return positions_m
