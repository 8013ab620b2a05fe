"""Drift on real rows: how often an unchanged day raises it, how soon a changed one does, and what watching costs.

Days are resampled two hundred times: the rows of some tracks (or days) make the reference, those of the others are
what the fleet sees; then looks follow each other for a day, as the service takes them.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from roadloop_agent.ipc import Observed
from roadloop_agent.link.batcher import SealedBatch
from roadloop_agent.link.sketches import SketchBook, SketchMemory
from roadloop_cloud.drift.decide import Rules, independent_rows, threshold
from roadloop_models.bundle import Bundle
from roadloop_models.contract.messages import ReleaseRef
from roadloop_models.packaged import packaged_bundles
from roadloop_models.preprocess import FloatArray, ImageArray
from roadloop_models.sketches import distance
from roadloop_models.sketches.measure import DAY_STEPS, HOUR_STEPS, Measured, measure_signs, measure_speeds
from roadloop_models.sketches.reference import Reference, bin_counts, make_reference
from roadloop_models.sketches.signals import SIGNALS, sign_signals
from roadloop_models.tasks.sign_data import load_training_signs
from roadloop_models.tasks.speed_data import SpeedRows, load_speeds
from tests.bench.figures import Figure, Result, Skipped
from tests.bench.learning.context import Context

RESAMPLINGS = 200
TRACKS_AN_HOUR = 13
"""Signs that a small fleet passes in an hour, each once: eight frames of each."""
REFERENCE_DAYS = 5
WEEKEND = (2, 3)
"""Days of the Los-loop record, which begins on a Thursday. A weekend that a reference has not seen is a change."""
_RULES = Rules()
_figure = partial(Figure, command="scripts/bench learning")
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Outcome:
    """What came of resampled days."""

    alarms: int
    """Days in which anything was raised."""
    hours: tuple[int, ...]
    """After how many looks, in those days."""
    signals: tuple[str, ...]
    """Which signal was first."""


def figures(context: Context) -> Iterator[Result]:
    """False alarms and delays on real rows, and what a decision's signals and an hour's sketch cost."""
    if context.data is None:
        yield Skipped("drift on real rows", "ROADLOOP_DATA names no data")
        return
    bundles = {task: Bundle.open(path) for task, path in packaged_bundles().items()}
    yield from _signs(bundles["traffic-sign"], context.data)
    yield from _speeds(bundles["traffic-speed"], context.data)


def _signs(bundle: Bundle, data: Path) -> Iterator[Result]:
    rows = load_training_signs(data, "all")
    measure = partial(measure_signs, bundle, bundle.variant(), tracks=rows.tracks)
    same = measure(images=rows.images)
    changes: dict[str, Callable[[ImageArray], ImageArray]] = {
        "darker": lambda images: (images * 0.6).astype(np.uint8),
        "blurred": _blurred,
        "hazy": lambda images: (images * 0.5 + 90).astype(np.uint8),
    }
    resample = partial(_resample_signs, same, rows.tracks)
    yield from _false_alarms("traffic-sign", "gtsrb32 training tracks", partial(resample, later=same))
    for name, change in changes.items():
        changed = measure(images=change(rows.images))
        yield from _delays("traffic-sign", name, partial(resample, later=changed))
    yield from _costs(same, rows.images)


def _speeds(bundle: Bundle, data: Path) -> Iterator[Result]:
    record = load_speeds(data)
    rng = np.random.default_rng(0)
    noise = rng.normal(0.0, 3.0, record.speeds_mph.shape).astype(np.float32)
    stuck = np.arange(record.speeds_mph.shape[1]) % 5 == 0
    changes: dict[str, Callable[[FloatArray], FloatArray]] = {
        "slower_by_a_fifth": lambda mph: mph * np.float32(0.8),
        "a_fifth_of_the_sensors_stuck": lambda mph: np.where(stuck, np.float32(0.0), mph),
        "noise_of_3_mph": lambda mph: np.clip(mph + noise, 0, None),
    }

    def measure(speeds_mph: FloatArray) -> Measured:
        return measure_speeds(bundle, bundle.variant(), SpeedRows(record.steps, speeds_mph, record.sensor_ids))

    same = measure(record.speeds_mph)
    steps = record.window_starts(12) + 11
    resample = partial(_resample_speeds, same, record.steps[steps])
    yield from _false_alarms("traffic-speed", "losloop", partial(resample, later=same))
    any_days = partial(resample, later=same, knows_weekends=False)
    yield from _false_alarms("traffic-speed", "losloop, references without a weekend too", any_days, "_any_five_days")
    for name, change in changes.items():
        changed = measure(change(record.speeds_mph).astype(np.float32))
        yield from _delays("traffic-speed", name, partial(resample, later=changed))


Day = tuple[Reference, list[npt.NDArray[np.float64]]]
"""A reference, and the rows [n, signals] that the fleet saw in each of 48 hours; the change is in the later 24."""


def _resample_signs(same: Measured, tracks: IntArray, rng: np.random.Generator, later: Measured) -> Day:
    order = rng.permutation(np.unique(tracks))
    half = len(order) // 2
    chosen = np.isin(tracks, order[:half])
    reference = make_reference("traffic-sign", same.rows[chosen], {"track": tracks[chosen]})
    of_track = {track: np.flatnonzero(tracks == track) for track in order[half:]}
    hours = []
    for hour in range(2 * _RULES.window_looks):
        passed = order[half + hour * TRACKS_AN_HOUR : half + (hour + 1) * TRACKS_AN_HOUR]  # each sign once
        seen = np.concatenate([of_track[track] for track in passed])
        hours.append((same if hour < _RULES.window_looks else later).rows[seen])
    return reference, hours


def _resample_speeds(
    same: Measured, steps: IntArray, rng: np.random.Generator, later: Measured, knows_weekends: bool = True
) -> Day:
    days = rng.permutation(np.unique(steps // DAY_STEPS))
    while knows_weekends and set(WEEKEND) <= set(days[REFERENCE_DAYS:].tolist()):
        days = rng.permutation(days)
    chosen = np.isin(steps // DAY_STEPS, days[:REFERENCE_DAYS])
    blocks = {kind: ids[chosen] for kind, ids in same.blocks.items()}
    reference = make_reference("traffic-speed", same.rows[chosen], blocks)
    hours = []
    for hour in range(2 * _RULES.window_looks):
        day = rng.choice(days[REFERENCE_DAYS:])  # the same hour of a day that the reference has not seen
        first = day * DAY_STEPS + hour % 24 * HOUR_STEPS
        within = (steps >= first) & (steps < first + HOUR_STEPS)
        hours.append((same if hour < _RULES.window_looks else later).rows[within])
    return reference, hours


def _run(task: str, resample: Callable[[np.random.Generator], Day]) -> Outcome:
    hours, signals = [], []
    for number in range(RESAMPLINGS):
        reference, seen = resample(np.random.default_rng(number))
        first = _first_alarm(task, reference, seen)
        if first is not None:
            hours.append(first[0])
            signals.append(first[1])
    return Outcome(len(hours), tuple(hours), tuple(signals))


def _first_alarm(task: str, reference: Reference, hours: list[npt.NDArray[np.float64]]) -> tuple[int, str] | None:
    """After how many looks of the second day which signal was raised first; None where none was."""
    alpha, looks = _RULES.alpha(len(reference.signals)), _RULES.window_looks
    raised = []
    for index, signal in enumerate(SIGNALS[task]):
        one = reference.signals.get(signal.name)
        if one is None:
            continue
        counts = np.stack([bin_counts(one.edges, rows[np.isfinite(rows[:, index]), index]) for rows in hours])
        for look in range(1, looks + 1):
            window = counts[look : look + looks]
            worth = independent_rows(task, signal.name, window[np.newaxis], one)
            if distance.ks(one.counts, window.sum(axis=0)) > threshold(one, worth, _RULES, alpha):
                raised.append((look, signal.name))
                break
    return min(raised, default=None)


def _false_alarms(
    task: str, rows: str, resample: Callable[[np.random.Generator], Day], kind: str = ""
) -> Iterator[Result]:
    outcome = _run(task, resample)
    rate = outcome.alarms / RESAMPLINGS
    yield _figure(f"drift_false_alarms_{task}{kind}", 100 * rate, f"% of {RESAMPLINGS} unchanged days of {rows}")


def _delays(task: str, change: str, resample: Callable[[np.random.Generator], Day]) -> Iterator[Result]:
    outcome = _run(task, resample)
    name = f"{task}_{change}"
    yield _figure(f"drift_found_{name}", 100 * outcome.alarms / RESAMPLINGS, f"% of {RESAMPLINGS} changed days")
    if outcome.alarms:
        worst = float(np.quantile(outcome.hours, 0.95))
        yield _figure(f"drift_delay_{name}", float(np.median(outcome.hours)), f"hours (median; 95 %: {worst:g})")


def _costs(measured: Measured, images: ImageArray) -> Iterator[Result]:
    """Of the signals of one decision (drive), of its row in a sketch (link), and the bytes of an hour."""
    ref = ReleaseRef(task="traffic-sign", release=1, version="1", manifest_sha256="0" * 64)
    reference = make_reference("traffic-sign", measured.rows, measured.blocks)
    book = SketchBook(
        period_s=3600.0, known={}, memory=SketchMemory(), reference=lambda directory: reference, now_s=0.0
    )
    logits = np.random.default_rng(0).normal(size=(1, 43)).astype(np.float32)
    decision = type("D", (), {"class_id": 3, "confidence": 0.9, "margin": 0.8})()
    taken_s = []
    for image in images[:5000]:
        started = time.perf_counter()
        sign_signals(image, logits, decision)
        taken_s.append(time.perf_counter() - started)
    yield _figure("drift_signals_us", float(np.median(taken_s)) * 1e6, "us a decision, in drive's main thread (median)")
    rows = measured.rows.tolist()
    parts = [rows[first : first + 128] for first in range(0, len(rows), 128)]
    book.add(Observed(boot=1, slot="sign", ref=ref, bundle_dir="v", from_ms=0, to_ms=1, rows=parts[0]))
    started = time.perf_counter()
    for part in parts:
        book.add(Observed(boot=1, slot="sign", ref=ref, bundle_dir="v", from_ms=0, to_ms=1, rows=part))
    yield _figure("drift_sketch_us", (time.perf_counter() - started) / len(rows) * 1e6, "us a decision, link")
    (batch,) = book.due(3600.0)
    assert isinstance(batch, SealedBatch)
    yield _figure("drift_sketch_bytes", len(batch.payload), f"bytes an hour and slot, of {len(rows)} decisions")


def _blurred(images: ImageArray) -> ImageArray:
    import cv2

    return np.stack([cv2.GaussianBlur(image, (0, 0), 1.2) for image in images])
