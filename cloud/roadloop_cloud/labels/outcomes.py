"""Labels that time gives: what happened after a forecast, and where GNSS was good. Pure.

A forecast's sample says what it expects so many steps later; the same vehicle's later samples say what came.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from roadloop_cloud.labels.words import MeasuredValue, Word, sample_item
from roadloop_models.contract.streams import FLOW_FORECAST, POSITION, SPEED_DECISION
from roadloop_models.localization.trace import PERIOD_S

Floats = npt.NDArray[np.float64]

LONGEST_STEP_S = 2.5 * PERIOD_S
"""A longer pause between two samples ends a stretch."""
SHORTEST_STRETCH_S = 60.0
SCALE_FROM_M = 200.0
"""Over less than this a standing car's noise is most of what it travelled, and says nothing of the odometer."""
LARGEST_ACCELERATION_MPS2 = 12.0
"""No car changes its speed faster: a reference that does is not good."""
_PLAUSIBLE_MPS = 100.0


@dataclass(frozen=True)
class Forecasts:
    """How a stream tells forecasts, and later what came: all in steps of the field `step`."""

    task: str
    stream: str
    observed: str
    pairs: tuple[tuple[str, int], ...]
    """(field of the forecast, steps ahead)."""
    unit: str


FORECASTS = (
    Forecasts(
        "traffic-speed",
        SPEED_DECISION.name,
        "observed_mph",
        tuple((f"forecast_{minutes}min_mph", minutes // 5) for minutes in (15, 30, 45, 60)),
        "mph",
    ),
    Forecasts("traffic-flow", FLOW_FORECAST.name, "flow_veh", (("forecast_veh", 1),), "veh"),
)


def outcomes(rule: Forecasts, table: pa.Table) -> Iterator[Word]:
    """A label for each forecast of which everything has come: what was measured, and by how much it was missed."""
    for vehicle, rows in by_vehicle(table):
        steps, observed = _column(rows, "step"), _column(rows, rule.observed)
        known = np.isfinite(steps) & np.isfinite(observed)
        places = {int(step): value for step, value in zip(steps[known], observed[known], strict=True)}
        boots, seqs = rows["boot"].to_pylist(), rows["seq"].to_pylist()
        columns = [(ahead, _column(rows, name)) for name, ahead in rule.pairs]
        for index in np.flatnonzero(np.isfinite(steps)):
            values: dict[str, float] = {}
            for ahead, forecast in columns:
                came = places.get(int(steps[index]) + ahead)
                if came is None or not np.isfinite(forecast[index]):
                    break
                suffix = f"{5 * ahead}min_{rule.unit}"
                values[f"measured_{suffix}"] = round(float(came), 4)
                values[f"error_{suffix}"] = round(float(forecast[index] - came), 4)
            else:
                item, about = sample_item(rule.stream, vehicle, boots[index], seqs[index])
                yield Word(rule.task, item, MeasuredValue(values), "outcome", rule.stream, about=about)


@dataclass(frozen=True)
class Stretch:
    """An unbroken part of a drive in which odometer and GNSS are both there and plausible.

    t_s, odometer_mps, reference_mps float64 [n]; t_s is the source's time.
    """

    vehicle: str
    boot: int
    first_seq: int
    last_seq: int
    first_t_ms: int
    t_s: Floats
    odometer_mps: Floats
    reference_mps: Floats

    def __len__(self) -> int:
        return len(self.t_s)

    @property
    def name(self) -> str:
        """The reference of its first sample."""
        return sample_item(POSITION.name, self.vehicle, self.boot, self.first_seq)[1]

    @property
    def scale(self) -> float:
        """What GNSS travelled for each metre of the odometer; NaN where neither went far."""
        by_odometer, by_gnss = (float(speed.sum()) * PERIOD_S for speed in (self.odometer_mps, self.reference_mps))
        if max(by_odometer, by_gnss) < SCALE_FROM_M:
            return float("nan")
        return by_gnss / by_odometer if by_odometer > 0 else float("inf")


def gnss_stretches(table: pa.Table) -> list[Stretch]:
    """Where GNSS was good for a minute or more, from samples of the stream position, by vehicle and time."""
    found = []
    for vehicle, of_vehicle in by_vehicle(table):
        boots = of_vehicle["boot"].to_numpy()
        for boot in np.unique(boots):
            rows = of_vehicle.filter(pa.array(boots == boot)).sort_by("seq")
            found += list(_stretches(vehicle, int(boot), rows))
    return found


def gnss_words(table: pa.Table) -> Iterator[Word]:
    """A label for each stretch: how long it is and what it says of the odometer."""
    for stretch in gnss_stretches(table):
        item, about = sample_item(POSITION.name, stretch.vehicle, stretch.boot, stretch.first_seq)
        measured = {"last_seq": float(stretch.last_seq), "seconds": round(float(stretch.t_s[-1] - stretch.t_s[0]), 3)}
        if np.isfinite(stretch.scale):
            measured["odometer_scale"] = round(stretch.scale, 5)
        yield Word("localization", item, MeasuredValue(measured), "gnss", POSITION.name, about=about)


def by_vehicle(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """The samples of each vehicle, the vehicles by name."""
    if not table.num_rows:
        return
    names = np.asarray(table["vehicle"].to_pylist())
    for name in np.unique(names):
        yield str(name), table.filter(pa.array(names == name))


def _stretches(vehicle: str, boot: int, rows: pa.Table) -> Iterator[Stretch]:
    t_s, odometer, reference = (_column(rows, name) for name in ("t_s", "odometer_mps", "reference_mps"))
    seqs, t_ms = rows["seq"].to_numpy(), rows["t_ms"].to_numpy()
    with np.errstate(invalid="ignore"):
        good = np.isfinite(t_s)
        for speed in (odometer, reference):
            good &= (speed >= 0) & (speed < _PLAUSIBLE_MPS)
        steps = np.diff(t_s)
        joined = good[1:] & good[:-1] & (steps > 0) & (steps <= LONGEST_STEP_S)
        joined &= np.abs(np.diff(reference)) <= LARGEST_ACCELERATION_MPS2 * steps
    edges = np.flatnonzero(~joined) + 1
    for part in np.split(np.arange(len(t_s)), edges):
        if len(part) > 1 and t_s[part[-1]] - t_s[part[0]] >= SHORTEST_STRETCH_S:
            first, last = part[0], part[-1]
            columns = (t_s[part], odometer[part], reference[part])
            yield Stretch(vehicle, boot, int(seqs[first]), int(seqs[last]), int(t_ms[first]), *columns)


def _column(rows: pa.Table, name: str) -> Floats:
    return np.asarray(rows[name].to_numpy(zero_copy_only=False), dtype=np.float64)
