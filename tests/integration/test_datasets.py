"""Snapshots: the same rows whatever the order they came in, nothing held out, nothing that can be changed later."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadloop_cloud.datasets import speeds
from roadloop_cloud.datasets.service import Selection
from roadloop_cloud.datasets.snapshot import Content, Gap, Snapshots
from roadloop_cloud.datasets.splits import Shares
from roadloop_cloud.store.database import now_utc
from roadloop_cloud.store.ingest_tables import Capture
from roadloop_models.bundle import Bundle, Preprocess
from roadloop_models.contract.streams import SPEEDS_PER_SAMPLE
from roadloop_models.errors import BadInputError, ConfigError, DataError, NotFoundError
from roadloop_models.tasks.sign_data import SignRows, load_training_signs, write_signs
from roadloop_models.tasks.speed_data import SpeedRows, load_speeds, write_speeds
from tests.fakes.bundles import tiny_bundle
from tests.fakes.cloud import fresh_database
from tests.fakes.datasets import make_datasets

SENSORS = 23
NO_SHARES = Shares(validation=0.0)
Sample = tuple[str, int, int, list[float]]


def samples(vehicle: str, step: int, offset: float = 0.0, sensors: int = SENSORS) -> list[Sample]:
    """One step as a vehicle sends it: the speed of a sensor is 10 + step + sensor / 100 + offset."""
    made = []
    for first in range(0, sensors, SPEEDS_PER_SAMPLE):
        values = [10 + step + (first + i) / 100 + offset for i in range(min(SPEEDS_PER_SAMPLE, sensors - first))]
        made.append((vehicle, step, first, values + [np.nan] * (SPEEDS_PER_SAMPLE - len(values))))
    return made


def observed(rows: list[Sample]) -> speeds.Observations:
    return speeds.Observations(
        np.asarray([row[0] for row in rows]),
        np.asarray([row[1] for row in rows], dtype=np.float64),
        np.asarray([row[2] for row in rows], dtype=np.float64),
        np.asarray([row[3] for row in rows], dtype=np.float64),
    )


def test_vehicles_make_one_record_with_its_gaps_listed() -> None:
    rows = [sample for step in (3, 4, 9) for sample in samples("a", step)]
    rows += [sample for step in (4, 5) for sample in samples("b", step)]
    rows += samples("b", 6)[:1]
    record, content = speeds.assemble(observed(rows), SENSORS, (), NO_SHARES)
    assert record.steps.tolist() == [3, 4, 5, 9]
    assert record.speeds_mph[1, 22] == pytest.approx(14.22)
    assert (content.rows, content.sources, content.excluded) == (4, {"a": 3, "b": 2}, {"incomplete": 1})
    assert content.gaps == (Gap(6, 8),)


@settings(max_examples=50)
@given(st.permutations(range(6)), st.lists(st.sampled_from([0.0, 1.0, 5.0]), min_size=3, max_size=3))
def test_overlaps_are_resolved_by_the_median_whatever_the_order(order: list[int], offsets: list[float]) -> None:
    rows = [sample for name, offset in zip("abc", offsets, strict=True) for sample in samples(name, 7, offset)]
    record, content = speeds.assemble(observed([rows[index] for index in order]), SENSORS, (), NO_SHARES)
    assert record.speeds_mph[0, 0] == pytest.approx(17 + sorted(offsets)[1])
    assert content.excluded.get("overlaps-that-differ", 0) == (SENSORS if len(set(offsets)) > 1 else 0)


def test_held_out_steps_are_left_out() -> None:
    rows = [sample for step in range(10) for sample in samples("a", step)]
    record, content = speeds.assemble(observed(rows), SENSORS, range(6, 100), NO_SHARES)
    assert record.steps.tolist() == [0, 1, 2, 3, 4, 5]
    assert content.excluded == {"held-out": 4}


def test_nonsense_is_counted_and_costs_no_memory() -> None:
    rows = samples("a", 1)
    rows += [("b", 10**15, 0, [1.0] * 20), ("b", 1, 10**12, [1.0] * 20), ("b", -1, 0, [1.0] * 20)]
    rows += [("b", 1, 0, [999.0] * 19 + [np.inf])]
    record, content = speeds.assemble(observed(rows), SENSORS, (), NO_SHARES)
    assert len(record) == 1
    assert content.excluded == {"malformed": 79}


@pytest.mark.parametrize("rows", [[], samples("a", 5)[:1]])
def test_without_a_complete_step_there_is_no_snapshot(rows: list[Sample]) -> None:
    if rows:
        with pytest.raises(DataError, match="none has all 23 sensors"):
            speeds.assemble(observed(rows), SENSORS, (), NO_SHARES)
    else:
        with pytest.raises(DataError, match="nothing is stored"):
            speeds.Observations.from_table(pa.table({"vehicle": []}))


def test_speeds_are_built_from_the_stream_by_the_incumbents_sensors(tmp_path: Path) -> None:
    incumbent = tiny_bundle(tmp_path / "tiny")
    preprocess = Preprocess("speed-scale", {"sensors": SENSORS})
    manifest = msgspec.structs.replace(incumbent.manifest, preprocess=preprocess)
    rows = [sample for step in range(5) for sample in samples("a", step)]
    columns = {f"speed_{i}_mph": [row[3][i] for row in rows] for i in range(SPEEDS_PER_SAMPLE)}
    times_ms = [1_700_000_000_000 + row[1] * 1000 for row in rows]
    table = pa.table(
        {
            "vehicle": [row[0] for row in rows],
            "boot": pa.array([1] * len(rows), pa.int64()),
            "seq": pa.array(range(1, len(rows) + 1), pa.int64()),
            "t_ms": pa.array(times_ms, pa.int64()),
            "step": [float(row[1]) for row in rows],
            "first_sensor": [float(row[2]) for row in rows],
            **columns,
        }
    )
    datasets = make_datasets(
        fresh_database(tmp_path),
        Snapshots(tmp_path / "snapshots"),
        lambda _: table,
        Path,
        lambda _: Bundle(incumbent.directory, manifest, incumbent.manifest_sha256),
    )
    snapshot = datasets.build(Selection("traffic-speed"))
    assert load_speeds(snapshot.directory).steps.tolist() == [0, 1, 2, 3, 4]
    since = datetime.fromtimestamp(1_700_000_002, UTC)
    assert datasets.build(Selection("traffic-speed", since=since)).manifest.rows == 3
    with pytest.raises(ConfigError, match="--labels"):
        datasets.build(Selection("traffic-speed", labels=tmp_path / "labels.csv"))


class Garage:
    """Captured images on disk and in the table, of two vehicles."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database = fresh_database(root, "a", "b")
        self.images: dict[str, npt.NDArray[np.uint8]] = {}
        self.datasets = make_datasets(
            self.database,
            Snapshots(root / "snapshots"),
            lambda _: pa.table({}),
            self.blob,
            lambda _: tiny_bundle(root / "tiny"),
        )

    def blob(self, sha256: str) -> Path:
        return self.root / "blobs" / sha256

    def capture(self, vehicle: str, seed: int, media_type: str = "image/png") -> str:
        image = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        content = cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()
        sha256 = hashlib.sha256(content).hexdigest()
        self.blob(sha256).parent.mkdir(exist_ok=True)
        self.blob(sha256).write_bytes(content)
        self.images[sha256] = image
        with self.database.transaction() as session:
            session.add(
                Capture(
                    vehicle=vehicle,
                    boot=1,
                    about_stream="sign-decision",
                    about_seq=seed + 1,
                    sha256=sha256,
                    size_bytes=len(content),
                    media_type=media_type,
                    task="traffic-sign",
                    t_ms=1_700_000_000_000 + seed,
                    received=now_utc(),
                )
            )
        return sha256

    def labels(self, *lines: str, header: str = "sha256,label") -> Path:
        path = self.root / "labels.csv"
        path.write_text("\n".join([header, *lines]) + "\n")
        return path


@pytest.fixture
def garage(tmp_path: Path) -> Garage:
    return Garage(tmp_path)


def test_labelled_captures_become_training_rows(garage: Garage) -> None:
    ids = [garage.capture("a", 0), garage.capture("a", 1), garage.capture("b", 2), garage.capture("b", 3)]
    garage.capture("b", 0)
    labels = garage.labels(f"{ids[0]},14", f"{ids[1]},14", f"{ids[2]},14")
    snapshot = garage.datasets.build(Selection("traffic-sign", labels=labels))
    assert snapshot.manifest.rows == 3
    assert snapshot.manifest.sources == {"a": 2, "b": 1}
    assert snapshot.manifest.excluded == {"captured-twice": 1, "no-label": 1}
    rows = load_training_signs(snapshot.directory, "snapshot")
    assert rows.labels.tolist() == [14, 14, 14]
    assert sorted(image.tobytes() for image in rows.images) == sorted(garage.images[key].tobytes() for key in ids[:3])
    assert sorted(rows.tracks.tolist()) == [0, 0, 1], "one track for each vehicle and class"
    assert garage.datasets.build(Selection("traffic-sign", labels=labels)).sha256 == snapshot.sha256
    assert [found.sha256 for found in garage.datasets.list()] == [snapshot.sha256]


def test_labels_may_name_tracks_and_classes(garage: Garage) -> None:
    ids = [garage.capture("a", seed) for seed in range(3)]
    lines = (f"{ids[0]},stop,t1", f"{ids[1]},stop,t1", f"{ids[2]},stop,t2")
    labels = garage.labels(*lines, header="sha256,label,track")
    rows = load_training_signs(garage.datasets.build(Selection("traffic-sign", labels=labels)).directory, "snapshot")
    assert sorted(rows.tracks.tolist()) == [0, 0, 1]


def test_test_images_never_come_into_a_snapshot(garage: Garage, tmp_path: Path) -> None:
    ids = [garage.capture("a", seed) for seed in range(2)]
    held_out = SignRows(garage.images[ids[0]][None], np.array([14]), np.array([0]))
    write_signs(tmp_path / "data" / "gtsrb32" / "test_a.npz", held_out, with_tracks=False)
    labels = garage.labels(f"{ids[0]},14", f"{ids[1]},14")
    snapshot = garage.datasets.build(Selection("traffic-sign", labels=labels, held_out=tmp_path / "data"))
    assert (snapshot.manifest.rows, snapshot.manifest.excluded) == (1, {"held-out": 1})


def test_images_that_cannot_be_read_are_left_out(garage: Garage) -> None:
    ids = [garage.capture("a", 0), garage.capture("a", 1), garage.capture("a", 2, "video/mp4"), garage.capture("a", 3)]
    garage.blob(ids[1]).unlink()
    garage.blob(ids[3]).write_bytes(b"no image")
    labels = garage.labels(*(f"{key},14" for key in ids))
    snapshot = garage.datasets.build(Selection("traffic-sign", labels=labels))
    assert snapshot.manifest.excluded == {"changed": 1, "missing": 1, "no-image": 1}


def test_what_a_task_needs_is_said(garage: Garage) -> None:
    with pytest.raises(ConfigError, match="nothing of traffic-sign is labelled yet"):
        garage.datasets.build(Selection("traffic-sign"))
    with pytest.raises(NotFoundError, match="traffic-speed"):
        garage.datasets.build(Selection("speed"))
    assert list((garage.root / "snapshots").iterdir()) == []


def test_a_changed_snapshot_is_refused(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    staging = snapshots.staging()
    write_speeds(staging, SpeedRows(np.arange(3), np.full((3, 2), 50.0, dtype=np.float32), ("0", "1")))
    snapshot = snapshots.keep(staging, "traffic-speed", Content(3, {"a": 3}, {}))
    assert len(load_speeds(snapshot.directory)) == 3
    assert snapshots.open(snapshot.sha256[:8]).sha256 == snapshot.sha256
    with pytest.raises(NotFoundError):
        snapshots.open("000000")
    with pytest.raises(BadInputError, match="first 6 digits"):
        snapshots.open("../..")
    (snapshot.directory / "losloop" / "los_step.csv").write_text("step\n0\n1\n9\n")
    with pytest.raises(DataError, match=r"los_step\.csv"):
        snapshots.open(snapshot.sha256)
    (snapshot.directory / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match=r"manifest\.json"):
        snapshots.open(snapshot.sha256)
