"""The picture of docs/drift.md: vehicles send the last days of Los-loop, after a day and a half a fifth slower.

    ROADLOOP_DATA=... python -m tests.bench.drift_picture docs/pictures/drift.png

Sketches are made as on a vehicle, taken by the real ingest's decoder, and looked at by the real service.
"""

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from roadloop_cloud.drift.decide import Rules
from roadloop_cloud.drift.picture import draw
from roadloop_cloud.drift.service import Drift
from roadloop_cloud.drift.sketches import keep_sketch
from roadloop_cloud.ingest.consumer import SketchItem, decode_item
from roadloop_models.bundle import Bundle
from roadloop_models.contract import channels
from roadloop_models.contract.codec import encode
from roadloop_models.contract.messages import ReleaseRef, Sketch
from roadloop_models.packaged import packaged_bundles
from roadloop_models.sketches.measure import DAY_STEPS, HOUR_STEPS, measure_speeds
from roadloop_models.sketches.reference import Reference, make_reference
from roadloop_models.sketches.signals import SIGNALS
from roadloop_models.sketches.sketch import ValueSketch
from roadloop_models.tasks.speed_data import SpeedRows, load_speeds
from tests.fakes.cloud import fresh_database

TASK = "traffic-speed"
REFERENCE_DAYS = 4
CHANGE_HOUR = 24 * 5 + 12
"""Of the record, whose last two days and a half nobody made a reference of."""
VEHICLES = ("van-1", "van-2", "van-3")
SHOWN = ("bias-60min", "error-60min", "speed-mean")


def main(target: Path, data: Path) -> None:
    """Draw it."""
    bundle = Bundle.open(packaged_bundles()[TASK])
    record = load_speeds(data)
    slower = record.speeds_mph.copy()
    slower[CHANGE_HOUR * HOUR_STEPS :] *= np.float32(0.8)
    same, seen = (
        measure_speeds(bundle, bundle.variant(), SpeedRows(record.steps, mph, record.sensor_ids))
        for mph in (record.speeds_mph, slower)
    )
    early = same.blocks["day"] < REFERENCE_DAYS
    reference = make_reference(TASK, same.rows[early], {kind: ids[early] for kind, ids in same.blocks.items()})
    hours = np.unique(seen.blocks["hour"])
    later = [hour for hour in hours.tolist() if hour >= REFERENCE_DAYS * DAY_STEPS // HOUR_STEPS]
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    with TemporaryDirectory() as folder:
        database = fresh_database(Path(folder), *VEHICLES)
        with database.transaction() as session:
            for seq, hour in enumerate(later, 1):
                at = now - timedelta(hours=len(later) - seq, minutes=30)
                for vehicle in VEHICLES:
                    sketch = _sketch(seen.rows[seen.blocks["hour"] == hour], reference, seq, at)
                    item = decode_item(channels.SKETCH.topic(vehicle), encode(channels.SKETCH, sketch), 0)
                    assert isinstance(item, SketchItem)
                    keep_sketch(session, item.vehicle, item.sketch)
        drift = Drift(database, lambda task, release: reference, Rules(), now=lambda: now)
        portraits = [one for one in drift.portraits(TASK) if one.finding.signal in SHOWN]
        target.parent.mkdir(parents=True, exist_ok=True)
        draw(portraits, "road speeds: everything a fifth slower after a day and a half", target)


def _sketch(rows: np.ndarray, reference: Reference, seq: int, at: datetime) -> Sketch:
    signals = []
    for index, signal in enumerate(SIGNALS[TASK]):
        known = reference.signals.get(signal.name)
        one = ValueSketch(signal.name, () if known is None else known.edges)
        one.add(rows[:, index])
        signals.append(one.message())
    at_ms = int(at.timestamp() * 1000)
    ref = ReleaseRef(task=TASK, release=1, version="1", manifest_sha256="0" * 64)
    return Sketch(
        boot=1,
        seq=seq,
        slot="speed",
        ref=ref,
        from_ms=at_ms - 3_600_000,
        to_ms=at_ms,
        decisions=len(rows),
        signals=tuple(signals),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(os.environ["ROADLOOP_DATA"]))
