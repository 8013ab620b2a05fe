"""From a vehicle's message to an alarm, a picture and a quarantine, on a real database and through the real ingest."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import msgspec
import numpy as np
import pytest
from sqlalchemy import select

from roadloop_cloud.drift.decide import Rules
from roadloop_cloud.drift.picture import draw
from roadloop_cloud.drift.service import Drift
from roadloop_cloud.ingest.blobs import BlobFolder
from roadloop_cloud.ingest.service import Grouping, IngestService
from roadloop_cloud.store.database import Database
from roadloop_cloud.store.drift_tables import SketchRow
from roadloop_cloud.store.ingest_tables import LedgerStream, Rejected
from roadloop_models.contract import channels
from roadloop_models.contract.codec import encode
from roadloop_models.contract.messages import ReleaseRef, SignalSketch, Sketch
from roadloop_models.errors import ConfigError, NotFoundError
from roadloop_models.sketches.reference import Reference, make_reference
from roadloop_models.sketches.signals import SIGNALS
from roadloop_models.sketches.sketch import ValueSketch
from tests.fakes.cloud import FakeTransport, fresh_database

TASK = "drive-state"
SIGNALS_OF_TASK = [signal.name for signal in SIGNALS[TASK]]
REF = ReleaseRef(task=TASK, release=1, version="1-a", manifest_sha256="5f" * 32)
NOW = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)
VEHICLES = tuple(f"van-{number}" for number in range(6))


def rows(seed: int, count: int, slower_kmh: float = 0.0) -> np.ndarray:
    """Decisions of drive-state: speeds and confidences of made drives of 20 rows each."""
    generator = np.random.default_rng(seed)
    speed = np.repeat(generator.normal(60.0, 15.0, -(-count // 20)), 20)[:count] - slower_kmh
    state = (speed < 40).astype(float)
    confidence = generator.uniform(0.6, 1.0, count)
    return np.stack([speed, state, confidence, generator.exponential(0.3, count), np.full(count, 16.0)], axis=1)


def reference() -> Reference:
    values = rows(0, 8000)
    return make_reference(TASK, values, {"drive": np.arange(8000) // 20})


REFERENCE = reference()


def sketch(seed: int, *, seq: int, at: datetime, slower_kmh: float = 0.0, count: int = 200) -> Sketch:
    values = rows(seed, count, slower_kmh)
    signals = []
    for index, name in enumerate(SIGNALS_OF_TASK):
        one = ValueSketch(name, REFERENCE.signals[name].edges if name in REFERENCE.signals else ())
        one.add(values[:, index])
        signals.append(one.message())
    at_ms = int(at.timestamp() * 1000)
    return Sketch(
        boot=1,
        seq=seq,
        slot="state",
        ref=REF,
        from_ms=at_ms - 3_600_000,
        to_ms=at_ms,
        decisions=count,
        signals=tuple(signals),
    )


class Cloud:
    """Ingest and drift on one database."""

    def __init__(self, directory: Path) -> None:
        self.database: Database = fresh_database(directory, *VEHICLES)
        self.transport = FakeTransport()
        self.ingest = IngestService(
            self.transport, self.database, BlobFolder(directory / "blobs"), grouping=Grouping(retry_s=0.0)
        )
        self.now = NOW
        self.references: dict[int, Reference | None] = {1: REFERENCE}
        self.drift = Drift(
            self.database, lambda task, release: self.references.get(release), Rules(), now=lambda: self.now
        )

    def send(self, vehicle: str, message: Sketch) -> None:
        self.transport.deliver(channels.SKETCH.topic(vehicle), encode(channels.SKETCH, message))
        self.ingest.step(Event())

    def day(self, slower_kmh: float = 0.0, *, vehicles: tuple[str, ...] = VEHICLES, first_seq: int = 1) -> None:
        """A day of sketches up to now, one an hour."""
        for hour in range(24):
            at = self.now.replace(minute=0) - timedelta(hours=24 - hour, minutes=-10)
            for number, vehicle in enumerate(vehicles):
                seed = first_seq * 10_000 + hour * 100 + number
                message = sketch(seed, seq=first_seq + hour, at=at, slower_kmh=slower_kmh)
                self.transport.deliver(channels.SKETCH.topic(vehicle), encode(channels.SKETCH, message))
        expected = self.ingest.counters.messages + 24 * len(vehicles)
        while self.ingest.counters.messages < expected:
            self.ingest.step(Event())

    def stored(self) -> int:
        with self.database.reading() as session:
            return len(session.scalars(select(SketchRow)).all())


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path)


def test_a_day_without_change_raises_nothing(cloud: Cloud) -> None:
    cloud.day()
    look = cloud.drift.look()
    assert cloud.stored() == 24 * len(VEHICLES)
    assert {finding.signal for finding in look.findings} >= {"speed-kmh", "confidence", "anomaly"}
    assert [finding.signal for finding in look.findings if finding.drifted] == []
    assert cloud.drift.alarms() == []
    assert look.set_apart == ()


def test_a_change_is_an_alarm_that_says_which_signal_since_when_and_ends(cloud: Cloud) -> None:
    cloud.day(slower_kmh=25.0)
    look = cloud.drift.look()
    assert look.ended == NOW.replace(minute=0)
    (alarm,) = [one for one in cloud.drift.alarms(TASK) if one.signal == "speed-kmh"]
    assert alarm.value > alarm.threshold
    assert alarm.mean == pytest.approx(alarm.reference_mean - 25.0, abs=3.0)
    assert NOW - timedelta(hours=26) <= alarm.since <= NOW
    assert "confidence" not in {one.signal for one in cloud.drift.alarms()}
    cloud.drift.look()  # once more changes nothing
    assert len([one for one in cloud.drift.alarms() if one.signal == "speed-kmh"]) == 1
    cloud.now += timedelta(days=2)
    cloud.day(first_seq=50)
    cloud.drift.look()
    (ended,) = [one for one in cloud.drift.alarms() if one.signal == "speed-kmh"]
    assert ended.cleared == cloud.now.replace(minute=0)
    assert cloud.drift.alarms(ended=False) == []
    assert cloud.drift.alarms("traffic-sign") == []


def test_a_sketch_that_comes_twice_counts_once(cloud: Cloud) -> None:
    message = sketch(1, seq=1, at=NOW - timedelta(hours=2))
    for _ in range(3):
        cloud.send("van-1", message)
    assert cloud.stored() == 1
    with cloud.database.reading() as session:
        (stream,) = session.scalars(select(LedgerStream)).all()
        assert (stream.stream, stream.stored, stream.redelivered) == ("sketch", 1, 2)


@pytest.mark.parametrize("lie", ["rows", "counts", "twice", "kll", "time"])
def test_a_sketch_that_contradicts_itself_is_refused_and_recorded(cloud: Cloud, lie: str) -> None:
    message = sketch(1, seq=1, at=NOW - timedelta(hours=2))
    first = message.signals[0]
    changed: dict[str, SignalSketch] = {
        "rows": msgspec.structs.replace(first, rows=first.rows - 1, unknown=1),
        "counts": msgspec.structs.replace(first, counts=(10**12, *first.counts[1:])),
        "kll": msgspec.structs.replace(first, kll=first.kll[:-3]),
    }
    if lie in changed:
        message = msgspec.structs.replace(message, signals=(changed[lie], *message.signals[1:]))
    elif lie == "twice":
        message = msgspec.structs.replace(message, signals=(first, *message.signals))
    else:
        message = msgspec.structs.replace(message, from_ms=message.to_ms + 1)
    cloud.send("van-1", message)
    assert cloud.stored() == 0
    with cloud.database.reading() as session:
        assert len(session.scalars(select(Rejected)).all()) == 1


def test_a_lying_vehicle_is_set_apart_and_believed_again_when_a_person_says_so(cloud: Cloud) -> None:
    cloud.day(vehicles=VEHICLES[:5])
    cloud.day(slower_kmh=55.0, vehicles=VEHICLES[5:])
    look = cloud.drift.look()
    assert look.set_apart == ("van-5",)
    assert cloud.drift.quarantined() == {"van-5"}
    assert cloud.drift.alarms() == []  # what it says moves nothing
    (entry,) = cloud.drift.quarantine_entries()
    assert "state/" in entry.reason
    cloud.drift.lift("van-5", by="ann")
    assert cloud.drift.quarantined() == set()
    assert cloud.drift.look().set_apart == ()  # for a while a person's word stands
    with pytest.raises(NotFoundError):
        cloud.drift.lift("van-5")
    assert cloud.drift.quarantine("van-5", "by hand", by="bob")
    assert cloud.drift.quarantined() == {"van-5"}
    with pytest.raises(NotFoundError):
        cloud.drift.quarantine("nobody", "none")


def test_a_release_without_a_reference_is_said_so(cloud: Cloud) -> None:
    cloud.references = {}
    cloud.day()
    look = cloud.drift.look()
    assert look.findings == ()
    assert look.unreferenced == ("state, release 1, test",)


def test_the_picture(cloud: Cloud, tmp_path: Path) -> None:
    cloud.day(slower_kmh=25.0)
    portraits = cloud.drift.portraits("state")
    assert {portrait.finding.signal for portrait in portraits} == set(REFERENCE.signals)
    draw(portraits, "state", tmp_path / "drift.png")
    assert (tmp_path / "drift.png").read_bytes().startswith(b"\x89PNG")
    assert cloud.drift.portraits(TASK, "speed-kmh")[0].since is not None
    with pytest.raises(ConfigError):
        draw(portraits, "state", tmp_path / "drift.gif")
    with pytest.raises(NotFoundError):
        cloud.drift.portraits("nothing")
