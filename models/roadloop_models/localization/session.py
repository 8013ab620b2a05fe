"""One drive: distance and position step by step, anchored to a reference while one is seen, dead reckoned without."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import hypot, sqrt

import numpy as np

from roadloop_models.geodesy import ecef_from_geodetic, enu_axes
from roadloop_models.localization.calibration import SpeedCalibration
from roadloop_models.localization.planar import COURSE_SPEED_MPS, FIX_SIGMA_M, Fix, FloatArray, PlanarFilter
from roadloop_models.localization.sample import YAW_SIGNAL, Reference, Sample
from roadloop_models.localization.trace import AT_REST, PERIOD_S, UNKNOWN, WINDOW, Drift, SpeedTrace

HOLD_S = 1.0
"""How long the last odometer speed or yaw rate stands for the next one."""
REFERENCE_GAP_S = 2.5
"""A longer gap between two references is an outage: what was dead reckoned in it stays."""
CHORD_S = 1.0
CHORD_SIGMA_M = 1.0
"""Positions without a speed tell the distance between two of them, so long apart and at most so inaccurate."""
RESTART_S = 60.0
"""A step longer than that, or backwards, is a clock that was set or a source that paused: the drive begins anew."""
SCALE_SIGMA = 0.003
"""Of the odometer's scale after calibration; on top of it comes what the network expects."""
LOST_MPS_PER_S = 1.0
"""How quickly the speed may have changed for each second without an odometer."""
LOST_LIMIT_MPS = 30.0
SPEED_NAME = "Vehicle.Speed"
_EPSILON_S = 1e-3

DriftEstimator = Callable[[SpeedTrace], Drift]
"""The network: from the odometer's last seconds to the error of its speed now."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Where the vehicle is believed to be."""

    t_s: float
    along_m: float
    """Travelled since the first sample: the reference's own distance while one is seen."""
    sigma_m: float
    """One sigma of what `along_m` has gathered since a reference was last seen; 0 while one is."""
    speed_mps: float
    """Corrected."""
    east_m: float | None
    """Of the first position that was seen; None before the heading is known."""
    north_m: float | None
    position_sigma_m: float | None
    heading_rad: float | None
    """Clockwise from north."""
    outage_s: float | None
    """Since the reference was last seen; None where it never was."""
    missing: tuple[str, ...]
    """Signals without which the motion is guessed at the moment."""
    inferred: bool
    """Whether the network ran for this sample."""
    scale: float
    gain: float
    """What the calibration believes: the odometer's scale error, and its trust in the network, 0 to 1."""
    correction_mps: float
    """The network's, before that gain."""


@dataclass(slots=True)
class _Anchor:
    """The last reference that the distance was tied to."""

    t_s: float
    speed_mps: float | None
    position_m: tuple[float, float] | None


@dataclass(slots=True)
class _Since:
    """What was gathered since the anchor."""

    distance_m: float = 0.0
    odometer_m: float = 0.0
    drift_m: float = 0.0
    variance_m2: float = 0.0
    lost_m: float = 0.0
    """Standard deviation of the distance that was guessed without an odometer."""


class Session:
    """See the module. Strictly causal: an estimate depends on no later sample."""

    def __init__(self, window: int = WINDOW) -> None:
        self._window = window
        self._calibration = SpeedCalibration()
        self._begin()

    def _begin(self) -> None:
        self._planar = PlanarFilter()
        self._t_s: float | None = None
        self._speed: tuple[float, float] | None = None  # (when, m/s)
        self._yaw: tuple[float, float] | None = None
        self._trace: deque[tuple[float, float]] = deque()
        self._drift, self._drift_at_s = UNKNOWN, -np.inf
        self._along_m = 0.0
        self._anchor: _Anchor | None = None
        self._since = _Since()
        self._origin: tuple[FloatArray, FloatArray] | None = None
        self._lost_mps = 0.0

    def step(self, sample: Sample, estimate_drift: DriftEstimator | None = None) -> Estimate:
        """Take in one sample; without an estimator the odometer is integrated as it is, but for its scale."""
        if self._t_s is not None and not 0.0 <= sample.t_s - self._t_s <= RESTART_S:
            self._begin()
        seconds = 0.0 if self._t_s is None else sample.t_s - self._t_s
        self._t_s = sample.t_s
        speed_before, yaw_before = self._speed, self._yaw
        if sample.speed_mps is not None:
            self._speed = (sample.t_s, sample.speed_mps)
            self._trace.append(self._speed)
        if sample.yaw_rate_rps is not None:
            self._yaw = (sample.t_s, sample.yaw_rate_rps)
        inferred = self._infer(sample.t_s, estimate_drift)
        odometer_m = seconds * _mean_of(speed_before, self._speed)
        moved_m, spread_m2 = self._travel(seconds, odometer_m)
        self._planar.move(seconds, moved_m, self._turning(yaw_before), spread_m2)
        if sample.reference is not None:
            self._see(sample.t_s, sample.reference)
        return self._estimate(inferred)

    def _infer(self, t_s: float, estimate_drift: DriftEstimator | None) -> bool:
        horizon_s = t_s - self._window * PERIOD_S
        while len(self._trace) > 1 and self._trace[1][0] < horizon_s - _EPSILON_S:
            self._trace.popleft()
        if estimate_drift is None:
            self._drift = UNKNOWN
            return False
        if not self._trace or self._lacks(self._speed) or t_s - self._drift_at_s < PERIOD_S - _EPSILON_S:
            return False
        times, speeds = zip(*self._trace, strict=True)
        grid = t_s + PERIOD_S * np.arange(-self._window, 1)
        trace = SpeedTrace(np.interp(grid, times, speeds).astype(np.float32))
        # It runs at rest too, so that a new version shows there that it works.
        drift = estimate_drift(trace)
        self._drift, self._drift_at_s = (drift if trace.moved else AT_REST), t_s
        return True

    def _travel(self, seconds: float, odometer_m: float) -> tuple[float, float]:
        """Add one step to what was gathered: (corrected distance, its variance beyond the usual)."""
        since = self._since
        lost = self._lacks(self._speed)
        drift_m = 0.0 if lost else self._drift.correction_mps * seconds
        moved_m = self._calibration.correction.apply(odometer_m, drift_m)
        since.distance_m += moved_m
        since.odometer_m += odometer_m
        since.drift_m += drift_m
        since.variance_m2 += self._drift.density_m2ps * seconds
        if not lost:
            self._lost_mps = 0.0
            return moved_m, 0.0
        self._lost_mps = min(self._lost_mps + LOST_MPS_PER_S * seconds, LOST_LIMIT_MPS)
        before_m2 = since.lost_m**2
        since.lost_m += self._lost_mps * seconds
        return moved_m, since.lost_m**2 - before_m2

    def _turning(self, before: tuple[float, float] | None) -> float | None:
        return None if self._lacks(self._yaw) else _mean_of(before, self._yaw)

    def _lacks(self, last: tuple[float, float] | None) -> bool:
        assert self._t_s is not None
        return last is None or self._t_s - last[0] > HOLD_S

    def _see(self, t_s: float, reference: Reference) -> None:
        position_m = None
        if reference.has_position:
            fix = self._fix(reference)
            self._planar.see(fix)
            if reference.accuracy_m is None or reference.accuracy_m <= CHORD_SIGMA_M:
                position_m = (fix.east_m, fix.north_m)
        if reference.speed_mps is None and position_m is None:
            return
        found = _Anchor(t_s, reference.speed_mps, position_m)
        before = self._anchor
        if before is None or t_s - before.t_s > REFERENCE_GAP_S:
            self._tie(found, self._since.distance_m)
            return
        seconds = t_s - before.t_s
        if before.speed_mps is not None and found.speed_mps is not None:
            reference_m = seconds * (before.speed_mps + found.speed_mps) / 2
        elif before.position_m is not None and found.position_m is not None:
            if seconds < CHORD_S - _EPSILON_S:
                return
            reference_m = hypot(found.position_m[0] - before.position_m[0], found.position_m[1] - before.position_m[1])
            if abs(self._since.odometer_m) < 0.1 and not self._lacks(self._speed):
                reference_m = 0.0  # what a position wanders while the vehicle stands is no way travelled
        else:
            self._tie(found, self._since.distance_m)
            return
        if self._since.lost_m == 0.0:
            self._calibration.learn(seconds, self._since.odometer_m, self._since.drift_m, reference_m)
        self._tie(found, reference_m)

    def _tie(self, anchor: _Anchor, distance_m: float) -> None:
        self._along_m += distance_m
        self._anchor, self._since = anchor, _Since()

    def _fix(self, reference: Reference) -> Fix:
        assert reference.latitude_deg is not None and reference.longitude_deg is not None
        latitude, longitude = np.array([reference.latitude_deg]), np.array([reference.longitude_deg])
        ecef_m = ecef_from_geodetic(latitude, longitude, np.zeros(1))[0]
        if self._origin is None:
            self._origin = (ecef_m, enu_axes(reference.latitude_deg, reference.longitude_deg))
        east_m, north_m, _ = (self._origin[1] @ (ecef_m - self._origin[0])).tolist()
        quick = reference.speed_mps is not None and reference.speed_mps > COURSE_SPEED_MPS
        return Fix(
            east_m, north_m, max(reference.accuracy_m or FIX_SIGMA_M, 0.1), reference.course_rad if quick else None
        )

    def _estimate(self, inferred: bool) -> Estimate:
        assert self._t_s is not None
        since, planar, correction = self._since, self._planar, self._calibration.correction
        scale_m = SCALE_SIGMA * since.distance_m
        east_m, north_m = planar.position_m if planar.started else (None, None)
        drift_mps = self._drift.correction_mps
        missing = [SPEED_NAME] if self._lacks(self._speed) else []
        if planar.started and self._lacks(self._yaw):
            missing.append(YAW_SIGNAL)
        return Estimate(
            t_s=self._t_s,
            along_m=self._along_m + since.distance_m,
            sigma_m=sqrt(since.variance_m2 + scale_m**2 + since.lost_m**2),
            speed_mps=0.0 if self._speed is None else correction.apply(self._speed[1], drift_mps),
            east_m=east_m,
            north_m=north_m,
            position_sigma_m=planar.sigma_m if planar.started else None,
            heading_rad=planar.heading_rad if planar.started else None,
            outage_s=None if self._anchor is None else self._t_s - self._anchor.t_s,
            missing=tuple(missing),
            inferred=inferred,
            scale=correction.scale,
            gain=correction.gain,
            correction_mps=drift_mps,
        )


def _mean_of(before: tuple[float, float] | None, now: tuple[float, float] | None) -> float:
    """The trapezoid's height over a step, from the values that were held at its ends."""
    if now is None:
        return 0.0
    return now[1] if before is None else (before[1] + now[1]) / 2
