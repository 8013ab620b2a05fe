"""Made road speeds: sensors along a few roads, slowed by seeded congestion waves that travel upstream.

They stand in where no real data is at hand. Congestion starts at bottlenecks in the rush hours, grows, moves against
the traffic and dissolves, so that neighbours and the time of day say something about what comes next.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from roadloop_models.preprocess import STEPS_PER_DAY, FloatArray
from roadloop_models.tasks.speed_data import SpeedRows

SENSORS = 207
ROADS = 9
FREE_FLOW_MPH = 65.0
JAM_MPH = 14.0
WAVE_SENSORS_PER_STEP = 0.35
"""How fast the tail of a jam moves upstream: about 12 mph at half a mile between sensors."""


def made_speeds(days: int, seed: int) -> tuple[SpeedRows, FloatArray]:
    """(rows of `days` days, adjacency float32 [207, 207]); equal seeds give equal rows."""
    generator = np.random.Generator(np.random.PCG64(seed))
    steps = np.arange(days * STEPS_PER_DAY)
    roads = np.array_split(np.arange(SENSORS), ROADS)
    density = np.zeros((len(steps), SENSORS))
    for road in roads:
        for jam in _jams(len(road), days, generator):
            density[:, road] += jam.density(steps, len(road))
    free_mph = FREE_FLOW_MPH + generator.normal(0, 3, size=SENSORS)
    speeds = free_mph - (free_mph - JAM_MPH) * np.minimum(density, 1.0)
    speeds += _slow_noise(speeds.shape, generator)
    ids = tuple(str(700_000 + sensor) for sensor in range(SENSORS))
    return SpeedRows(steps, np.clip(speeds, 3.0, 70.0).astype(np.float32), ids), _adjacency(roads)


@dataclass(frozen=True)
class _Jam:
    """Congestion that starts at sensor `where` of a road, at step `start`, and blocks that share of the speed."""

    where: int
    start: float
    length_steps: float
    depth: float

    def density(self, steps: npt.NDArray[np.int64], sensors: int) -> npt.NDArray[np.float64]:
        """[steps, sensors], 0 to `depth`: it reaches each sensor upstream later, weaker and for a shorter time."""
        step = steps[:, np.newaxis]
        upstream = self.where - np.arange(sensors)[np.newaxis, :]
        behind = np.maximum(upstream, 0)
        arrival = self.start + behind / WAVE_SENSORS_PER_STEP
        grown = _logistic((step - arrival) / 1.5)
        left = _logistic((step - arrival - self.length_steps * np.exp(-behind / 14)) / 2.5)
        reach = np.where(upstream < 0, np.exp(np.minimum(upstream, 0) / 0.7), np.exp(-behind / 18))
        density: npt.NDArray[np.float64] = self.depth * (grown - left) * reach
        return density


def _jams(sensors: int, days: int, generator: np.random.Generator) -> Iterator[_Jam]:
    """Two rush hours a day at the road's bottleneck, and on every other day an accident anywhere."""
    bottleneck = int(generator.integers(sensors // 2, sensors))
    for day in range(days):
        for rush_hour in (8.0, 17.5):
            start = (day * 24 + rush_hour - 1.0 + generator.normal(0, 0.25)) * 12
            yield _Jam(bottleneck, float(start), float(generator.uniform(16, 30)), float(generator.uniform(0.5, 1.1)))
        if generator.uniform() < 0.5:
            start = day * STEPS_PER_DAY + generator.uniform(0, STEPS_PER_DAY - 30)
            where = int(generator.integers(sensors))
            yield _Jam(where, float(start), float(generator.uniform(6, 15)), float(generator.uniform(0.4, 0.9)))


def _logistic(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 0.5 * (1.0 + np.tanh(values / 2.0))


def _slow_noise(shape: tuple[int, int], generator: np.random.Generator) -> npt.NDArray[np.float64]:
    noise = generator.normal(0, 1.0, size=shape)
    for index in range(1, len(noise)):
        noise[index] += 0.6 * noise[index - 1]
    return noise


def _adjacency(roads: list[npt.NDArray[np.int64]]) -> FloatArray:
    """exp(-(distance / 2)^2) along each road, 0 below 0.1 and between roads."""
    weights = np.zeros((SENSORS, SENSORS), dtype=np.float32)
    for road in roads:
        distance = road[:, np.newaxis] - road[np.newaxis, :]
        near = np.exp(-((distance / 2.0) ** 2)).astype(np.float32)
        weights[np.ix_(road, road)] = np.where(near < 0.1, 0.0, near)
    return weights
