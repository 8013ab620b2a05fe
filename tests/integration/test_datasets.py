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
from roadloop_cloud.datasets.origins import validation_mask
from roadloop_cloud.datasets.service import Datasets, Selection
from roadloop_cloud.datasets.snapshot import Content, Gap, Snapshots
from roadloop_cloud.datasets.splits import Shares
from roadloop_cloud.labels.service import Labels
from roadloop_cloud.labels.words import ClassValue, Word
from roadloop_cloud.store.database import now_utc
from roadloop_cloud.store.ingest_tables import Capture
from roadloop_cloud.training.evaluate import evaluate_bundle
from roadloop_models.bundle import Bundle, Preprocess
from roadloop_models.contract.streams import SPEEDS_PER_SAMPLE
from roadloop_models.errors import BadInputError, ConfigError, DataError, NotFoundError
from roadloop_models.tasks.flow_data import load_test_flow, load_training_flow
from roadloop_models.tasks.localization_data import load_odometer
from roadloop_models.tasks.sign_data import SignRows, load_test_signs, load_training_signs, write_signs
from roadloop_models.tasks.speed_data import (
    SpeedRows,
    load_speeds,
    load_test_speeds,
    load_training_speeds,
    write_speeds,
)
from tests.fakes.bundles import tiny_bundle
from tests.fakes.cloud import fresh_database
from tests.fakes.datasets import make_datasets

SENSORS = 23
LABELS_HEADER = "sha256,label,track,weather"
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
    datasets = speed_datasets(tmp_path, speed_table([sample for step in range(5) for sample in samples("a", step)]))
    snapshot = datasets.build(Selection("traffic-speed"))
    assert load_speeds(snapshot.directory).steps.tolist() == [0, 1, 2, 3, 4]
    since = datetime.fromtimestamp(1_700_000_002, UTC)
    assert datasets.build(Selection("traffic-speed", since=since)).manifest.rows == 3
    with pytest.raises(ConfigError, match="--labels"):
        datasets.build(Selection("traffic-speed", labels=tmp_path / "labels.csv"))


class Garage:
    """Captured images on disk and in the table, of two vehicles."""

    def __init__(self, root: Path, quarantined: tuple[str, ...] = ()) -> None:
        self.root = root
        self.decided: dict[int, tuple[int, float]] = {}
        self.hardware = {"a": "board-a", "b": "board-b"}
        self.database = fresh_database(root, "a", "b")
        self.images: dict[str, npt.NDArray[np.uint8]] = {}
        self.datasets = make_datasets(
            self.database,
            Snapshots(root / "snapshots"),
            lambda _: self.decisions(),
            self.blob,
            lambda _: tiny_bundle(root / "tiny"),
            quarantined=quarantined,
            hardware=lambda: self.hardware,
        )
        self.said = Labels(self.database)

    def blob(self, sha256: str) -> Path:
        return self.root / "blobs" / sha256

    def decisions(self) -> pa.Table:
        """What vehicle a decided: sequence number -> class and confidence."""
        rows = [("a", 1, seq, class_id, confidence) for seq, (class_id, confidence) in self.decided.items()]
        names = ("vehicle", "boot", "seq", "class_id", "confidence")
        return pa.table({name: [row[place] for row in rows] for place, name in enumerate(names)})

    def capture(
        self, vehicle: str, seed: int, media_type: str = "image/png", image: npt.NDArray[np.uint8] | None = None
    ) -> str:
        if image is None:
            image = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        return self._keep(vehicle, image, seed, cv2.imencode(".png", image[:, :, ::-1])[1].tobytes(), media_type)

    def capture_again(self, vehicle: str, sha256: str) -> str:
        """The same picture in a file of other bytes."""
        image = self.images[sha256]
        content = cv2.imencode(".png", image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 0])[1].tobytes()
        return self._keep(vehicle, image, len(self.images) + 100, content, "image/png")

    def _keep(self, vehicle: str, image: npt.NDArray[np.uint8], number: int, content: bytes, media_type: str) -> str:
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
                    about_seq=number + 1,
                    sha256=sha256,
                    size_bytes=len(content),
                    media_type=media_type,
                    task="traffic-sign",
                    t_ms=1_700_000_000_000 + number,
                    received=now_utc(),
                )
            )
        return sha256

    def say(self, item: str, name: str, by: str = "anna", track: str | None = None) -> None:
        self.said.say([Word("traffic-sign", item, ClassValue(name, track), "person", by)])

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


def speed_table(rows: list[Sample], boot: int = 1) -> pa.Table:
    """Samples as they are stored."""
    return pa.table(
        {
            "vehicle": [row[0] for row in rows],
            "boot": pa.array([boot] * len(rows), pa.int64()),
            "seq": pa.array(range(1, len(rows) + 1), pa.int64()),
            "t_ms": pa.array([1_700_000_000_000 + row[1] * 1000 for row in rows], pa.int64()),
            "step": [float(row[1]) for row in rows],
            "first_sensor": [float(row[2]) for row in rows],
            **{f"speed_{i}_mph": [row[3][i] for row in rows] for i in range(SPEEDS_PER_SAMPLE)},
        }
    )


def speed_datasets(root: Path, table: pa.Table, quarantined: tuple[str, ...] = ()) -> Datasets:
    incumbent = tiny_bundle(root / "tiny")
    manifest = msgspec.structs.replace(incumbent.manifest, preprocess=Preprocess("speed-scale", {"sensors": SENSORS}))
    bundle = Bundle(incumbent.directory, manifest, incumbent.manifest_sha256)
    snapshots = Snapshots(root / "snapshots")
    database = fresh_database(root)
    return make_datasets(database, snapshots, lambda _: table, Path, lambda _: bundle, quarantined=quarantined)


def test_a_quarantined_vehicle_and_samples_that_came_twice_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [sample for step in range(10) for name in "ab" for sample in samples(name, step)]
    liar = [sample for step in range(10) for sample in samples("liar", step, offset=50.0)]
    table = pa.concat_tables([speed_table(rows + liar), speed_table(rows)])
    snapshot = speed_datasets(tmp_path, table, ("liar",)).build(Selection("traffic-speed"))
    assert snapshot.manifest.excluded == {"duplicate": len(rows), "quarantined": len(liar)}
    assert snapshot.manifest.sources == {"a": 10, "b": 10}
    assert float(load_speeds(snapshot.directory).speeds_mph.max()) < 30


def test_who_says_a_thing_again_and_again_does_not_outvote_others() -> None:
    rows = samples("a", 7) + samples("b", 7) + samples("loud", 7, 30.0) * 5 + samples("loud", 7, 31.0)[:1]
    record, content = speeds.assemble(observed(rows), SENSORS, (), NO_SHARES)
    assert record.speeds_mph[0, 0] == pytest.approx(17)
    assert content.excluded["contradicts-itself"] == SPEEDS_PER_SAMPLE


def test_a_vehicle_that_lies_is_named() -> None:
    rows = [s for step in range(20) for name in "abc" for s in samples(name, step, 40.0 * (name == "c"))]
    _, content = speeds.assemble(observed(rows), SENSORS, (), NO_SHARES)
    (finding,) = content.findings
    assert finding.check == "vehicle-far-from-others"
    assert [row.split(",")[0] for row in finding.rows] == ["c"]


@pytest.mark.parametrize("count", [100, 101, 102, 103, 104])
def test_the_last_steps_are_set_aside_for_testing_as_the_protocol_cuts_them(tmp_path: Path, count: int) -> None:
    table = speed_table([sample for step in range(count) for sample in samples("a", step)])
    snapshot = speed_datasets(tmp_path, table).build(Selection("traffic-speed", with_test=True))
    cut = int(0.8 * count)
    assert snapshot.manifest.rows == cut
    assert load_training_speeds(snapshot.directory, "snapshot").steps.tolist() == list(range(cut))
    assert snapshot.test_directory is not None
    assert load_test_speeds(snapshot.test_directory).steps.tolist() == list(range(cut, count))
    of = {
        split: [row.key for row in snapshot.origins() if row.split == split]
        for split in ("train", "validation", "test")
    }
    assert of["test"] == [f"step {step}" for step in range(cut, count)]
    assert of["validation"] == [f"step {step}" for step in range(int(0.75 * cut), cut)], "as training cuts"
    assert {name: split.rows for name, split in snapshot.manifest.splits.items()} == {n: len(k) for n, k in of.items()}


def test_a_split_that_rows_do_not_know_is_refused(tmp_path: Path) -> None:
    datasets = speed_datasets(tmp_path, speed_table(samples("a", 1)))
    with pytest.raises(ConfigError, match="--split-by vehicle: rows of traffic-speed know time"):
        datasets.build(Selection("traffic-speed", split_by="vehicle"))


def test_the_same_picture_in_two_files_never_lies_on_both_sides(garage: Garage) -> None:
    ids = [garage.capture("a", seed) for seed in range(40)]
    for seed in range(0, 40, 2):
        garage.capture_again("b", ids[seed])
    for item in garage.images:
        garage.say(item, "stop", track=f"track {item[:8]}")
    snapshot = garage.datasets.build(Selection("traffic-sign", with_test=True))
    assert snapshot.manifest.excluded == {"same-picture": 20}
    by_split = {
        split: {row.key for row in snapshot.origins() if row.split == split}
        for split in ("train", "validation", "test")
    }
    assert all(by_split.values())
    assert snapshot.test_directory is not None
    tested = load_test_signs(snapshot.test_directory)
    trained = load_training_signs(snapshot.directory, "snapshot")
    assert len(tested) == len(by_split["test"]) and len(trained) == 40 - len(tested)
    pictures = {image.tobytes() for image in trained.images}
    assert not any(image.tobytes() in pictures for image in tested.images)


def test_test_rows_say_the_hardware_of_the_vehicle_that_sent_them(garage: Garage) -> None:
    for seed in range(60):
        garage.say(garage.capture("ab"[seed % 2], seed), "stop", track=f"track {seed}")
    snapshot = garage.datasets.build(Selection("traffic-sign", with_test=True))
    assert snapshot.test_directory is not None
    tested = [row for row in snapshot.origins() if row.split == "test"]
    (found,) = evaluate_bundle(tiny_bundle(garage.root / "judged"), snapshot.test_directory).values()
    assert found.slices["hardware"].tolist() == [garage.hardware[row.vehicle] for row in tested]
    assert {row.vehicle for row in tested} == {"a", "b"}
    assert garage.datasets.build(Selection("traffic-sign", with_test=True)).sha256 == snapshot.sha256
    assert not list(garage.datasets.build(Selection("traffic-sign")).directory.rglob("*.slices.csv"))


def test_test_rows_say_the_weather_that_people_saw_in_them(garage: Garage) -> None:
    ids = [garage.capture("a", seed) for seed in range(60)]
    weather = dict(zip(ids, ("rainy", "clear", "") * 20, strict=True))
    labels = garage.labels(*(f"{item},stop,{item},{seen}" for item, seen in weather.items()), header=LABELS_HEADER)
    snapshot = garage.datasets.build(Selection("traffic-sign", with_test=True, labels=labels))
    assert snapshot.test_directory is not None
    (found,) = evaluate_bundle(tiny_bundle(garage.root / "judged"), snapshot.test_directory).values()
    tested = [row.key for row in snapshot.origins() if row.split == "test"]
    assert found.slices["weather"].tolist() == [weather[key] or "unknown" for key in tested]
    assert set(found.slices["weather"].tolist()) == {"rainy", "clear", "unknown"}


def test_whatever_a_vehicle_says_of_its_hardware_can_be_judged_by(garage: Garage) -> None:
    for seed in range(60):
        garage.say(garage.capture("ab"[seed % 2], seed), "stop", track=f"track {seed}")
    garage.hardware = {"a": 'board\n",\x00'}
    snapshot = garage.datasets.build(Selection("traffic-sign", with_test=True))
    assert snapshot.test_directory is not None
    (found,) = evaluate_bundle(tiny_bundle(garage.root / "judged"), snapshot.test_directory).values()
    assert set(found.slices["hardware"].tolist()) == {'board?",?', "unknown"}


def test_bad_rows_are_named(garage: Garage) -> None:
    ids = [garage.capture("a", seed) for seed in range(6)]
    blank = garage.capture("a", 6, image=np.full((32, 32, 3), 90, dtype=np.uint8))
    again = garage.capture_again("b", ids[0])
    for item in (*ids, blank):
        garage.say(item, "stop", track="one" if item in ids[:2] else item[:8])
    garage.say(again, "no entry")
    garage.say(ids[1], "no entry", by="ben", track="one")
    garage.say(ids[2], "give way", by="ben")
    snapshot = garage.datasets.build(Selection("traffic-sign"))
    found = {finding.check: finding for finding in snapshot.manifest.findings}
    assert found["blank-picture"].rows == (blank,) and found["blank-picture"].left_out
    assert set(found["same-picture-other-label"].rows) == {ids[0], again}
    assert set(found["people-disagree"].rows) == {ids[1], ids[2]}
    assert found["class-of-one-track"].rows == ("give way", "no entry")
    assert snapshot.manifest.excluded == {"blank-picture": 1, "same-picture-other-label": 2}
    assert snapshot.manifest.labels == {"person": 5}


def test_a_label_that_a_sure_vehicle_denies_is_named(garage: Garage) -> None:
    item, other = garage.capture("a", 0), garage.capture("a", 1)
    garage.decided = {1: (14, 0.999), 2: (14, 0.5)}
    garage.say(item, "no entry")
    garage.say(other, "no entry")
    findings = garage.datasets.build(Selection("traffic-sign")).manifest.findings
    assert next(one for one in findings if one.check == "vehicle-was-sure-otherwise").rows == (item,)


def test_captures_of_a_quarantined_vehicle_are_left_out(tmp_path: Path) -> None:
    garage = Garage(tmp_path, ("b",))
    ids = [garage.capture("a", 0), garage.capture("b", 1)]
    for item in ids:
        garage.say(item, "stop")
    manifest = garage.datasets.build(Selection("traffic-sign")).manifest
    assert (manifest.sources, manifest.excluded) == ({"a": 1}, {"quarantined": 1})


def test_a_snapshot_says_what_changed_since_the_last(garage: Garage) -> None:
    ids = [garage.capture("a", seed) for seed in range(3)]
    for item in ids[:2]:
        garage.say(item, "stop", track=item)
    before = garage.datasets.build(Selection("traffic-sign"))
    garage.say(ids[1], "no entry", track=ids[1])
    garage.say(ids[2], "stop", track=ids[2])
    after = garage.datasets.build(Selection("traffic-sign"))
    found = garage.datasets.diff(before.sha256, after.sha256)
    assert (found.added, found.removed, found.by_vehicle) == (1, 0, {"a": 1})
    assert [row.split(":")[0] for row in found.relabelled] == [ids[1]]


def stored_positions(seconds: float, scale: float, vehicle: str = "a", boot: int = 1) -> pa.Table:
    """An odometer at 10 m/s whose reference says `scale` times that, every 0.2 s, with an outage in the middle."""
    count = int(seconds / 0.2)
    t_s = np.arange(count) * 0.2
    reference = np.where(np.abs(t_s - seconds / 2) < 5, np.nan, 10.0 * scale)
    return pa.table(
        {
            "vehicle": [vehicle] * count,
            "boot": pa.array([boot] * count, pa.int64()),
            "seq": pa.array(range(1, count + 1), pa.int64()),
            "t_ms": pa.array((1_700_000_000_000 + t_s * 1000).astype(np.int64)),
            "t_s": t_s,
            "odometer_mps": np.full(count, 10.0),
            "reference_mps": reference,
        }
    )


def test_gnss_teaches_where_it_was_good(tmp_path: Path) -> None:
    table = pa.concat_tables([stored_positions(200, 1.02), stored_positions(200, 1.3, "b")])
    snapshot = speed_datasets(tmp_path, table).build(Selection("localization"))
    assert {row.drive for row in snapshot.origins()} == {"a/1", "b/1"}
    assert snapshot.manifest.labels == {"gnss": 4}
    assert snapshot.manifest.excluded == {"no-good-gnss": 98}
    (odd,) = snapshot.manifest.findings
    assert [row.split(",")[0] for row in odd.rows] == ["position/b/1/1", "position/b/1/526"]
    stretches = [len(stretch) for stretch in load_odometer(snapshot.directory).stretches()]
    assert len(stretches) == 4, "no stretch runs on into the next"


def test_counts_of_one_detector_become_rows(tmp_path: Path) -> None:
    def counts(vehicle: str, steps: list[int], values: list[float]) -> pa.Table:
        keys = {
            "vehicle": [vehicle] * len(steps),
            "boot": pa.array([1] * len(steps), pa.int64()),
            "seq": pa.array(range(1, len(steps) + 1), pa.int64()),
            "t_ms": pa.array([1_700_000_000_000] * len(steps), pa.int64()),
        }
        return pa.table(keys | {"step": [float(step) for step in steps], "flow_veh": values})

    start = 4_700_000
    steps = [start + number for number in range(50)]
    good = counts("a", [*steps, start + 3, start + 60], [float(number) for number in range(50)] + [99.0, np.nan])
    datasets = speed_datasets(tmp_path, pa.concat_tables([good, counts("b", steps[:5], [1.0] * 5)]))
    snapshot = datasets.build(Selection("traffic-flow", with_test=True))
    assert load_training_flow(snapshot.directory, "snapshot").steps.tolist() == steps[:40]
    assert snapshot.test_directory is not None
    assert load_test_flow(snapshot.test_directory).flow_veh.tolist() == list(range(40, 50))
    assert snapshot.manifest.excluded == {"malformed": 1, "other-detector": 5, "said-twice": 1}
    assert datasets.build(Selection("traffic-flow", vehicle="b")).manifest.sources == {"b": 5}


def test_what_a_snapshot_sets_aside_is_what_training_validates_with(garage: Garage, tmp_path: Path) -> None:
    from roadloop_cloud.training.folds import held_out_span
    from roadloop_cloud.training.sign import _split
    from roadloop_cloud.training.spec import DataSource, TrainingSpec
    from roadloop_cloud.training.speed import FIT_SHARE

    (tmp_path / "speeds").mkdir()
    table = speed_table([sample for step in range(103) for sample in samples("a", step)])
    snapshot = speed_datasets(tmp_path / "speeds", table).build(Selection("traffic-speed", with_test=True))
    mask = validation_mask(snapshot.directory)
    assert mask is not None
    assert np.flatnonzero(mask).tolist() == list(range(*held_out_span(len(mask), None, FIT_SHARE)))
    for seed in range(40):
        garage.say(garage.capture("a", seed), "stop", track=f"track {seed // 2}")
    snapshot = garage.datasets.build(Selection("traffic-sign"))
    source = DataSource(str(snapshot.directory))
    rows = load_training_signs(snapshot.directory, "snapshot")
    fit, held_out = _split(rows, TrainingSpec(task="traffic-sign", version="v", data=source, seed=7))
    named = [row.key for row in snapshot.origins() if row.split == "validation"]
    assert {image.tobytes() for image in held_out.images} == {garage.images[key].tobytes() for key in named}
    assert len(fit) + len(held_out) == 40 and named
