"""Labels in a workspace: said, asked for, taught, measured; each knows where it comes from."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from roadloop_cloud.captures import Captures, Decision
from roadloop_cloud.datasets.service import Selection
from roadloop_cloud.datasets.snapshot import Snapshots
from roadloop_cloud.drift.decide import Rules
from roadloop_cloud.drift.service import Drift
from roadloop_cloud.jobs import Jobs, run_job
from roadloop_cloud.labels import measuring, teacher
from roadloop_cloud.labels.exchange import get_format
from roadloop_cloud.labels.labelling import Labelling
from roadloop_cloud.labels.measuring import Measuring
from roadloop_cloud.labels.outcomes import FORECASTS, gnss_stretches, outcomes
from roadloop_cloud.labels.service import Labels
from roadloop_cloud.labels.teacher import Teaching, TeachSpec, form_opinion
from roadloop_cloud.labels.watch import LabelWatch
from roadloop_cloud.labels.words import ClassValue, MeasuredValue, Word
from roadloop_cloud.store.database import now_utc
from roadloop_cloud.store.ingest_tables import Capture
from roadloop_models.errors import ConfigError, ConflictError, DataError, NotFoundError
from roadloop_models.packaged import packaged_bundles
from roadloop_models.tasks.made_signs import made_signs
from roadloop_models.tasks.sign_classes import SIGN_LABELS
from tests.fakes.cloud import add_vehicle
from tests.fakes.datasets import make_datasets
from tests.fakes.registry import Registry

SIGN = "traffic-sign"


@dataclass
class Office:
    """A workspace in which people and teachers label; the clock is the test's."""

    root: Path
    quarantined: set[str] = field(default_factory=set)
    streams: dict[str, pa.Table] = field(default_factory=dict)
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def __post_init__(self) -> None:
        self.registry = Registry(self.root).create()
        self.database = self.registry.database
        for vehicle in ("a", "b"):
            add_vehicle(self.database, vehicle)
        self.jobs = Jobs(self.database)
        self.labels = Labels(self.database, lambda: self.now)
        self.captures = Captures(self.database, self.blob, self.stream)
        names: Callable[[str], tuple[str, ...]] = lambda _: SIGN_LABELS  # noqa: E731
        self.labelling = Labelling(self.labels, self.captures, names, lambda: self.quarantined)
        believed_no_more: Callable[[], set[str]] = lambda: self.quarantined | self.drift.quarantined()  # noqa: E731
        self.drift = Drift(self.database, lambda task, release: None, Rules(), now=lambda: self.now)
        self.watch = LabelWatch(
            self.labels,
            self.captures,
            names,
            self.drift.hardware,
            believed_no_more,
            lambda vehicle, why: self.drift.quarantine(vehicle, why, "labels", by_itself=True),
            Rules(),
            0.5,
            lambda: self.now,
        )
        watch = self.watch.look
        models = self.registry.models
        self.teaching = Teaching(self.labels, self.captures, models, names, believed_no_more, watch=watch)
        self.measuring = Measuring(self.labels, self.stream, believed_no_more, watch)

    def blob(self, sha256: str) -> Path:
        return self.root / "blobs" / sha256

    def stream(self, name: str) -> pa.Table:
        return self.streams.get(name, pa.table({}))

    def capture(self, vehicle: str, seq: int, seed: int | None = None) -> str:
        image = made_signs(1, 1, seq if seed is None else seed).images[0]
        content = cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()
        sha256 = hashlib.sha256(content).hexdigest()
        self.blob(sha256).parent.mkdir(exist_ok=True)
        self.blob(sha256).write_bytes(content)
        about = {"about_stream": "sign-decision", "about_seq": seq, "task": SIGN, "media_type": "image/png"}
        with self.database.transaction() as session:
            row = Capture(vehicle=vehicle, boot=1, sha256=sha256, size_bytes=len(content), t_ms=seq, **about)
            row.received = now_utc()
            session.add(row)
        return sha256

    def decided(self, *rows: tuple[str, int, int, float]) -> None:
        """(vehicle, seq, class id, confidence)"""
        names = ("vehicle", "seq", "class_id", "confidence")
        columns: dict[str, Any] = {name: [row[place] for row in rows] for place, name in enumerate(names)}
        self.streams["sign-decision"] = pa.table(columns | {"boot": [1] * len(rows)})

    def run(self, kind: str, spec: dict[str, Any], handler: Any) -> dict[str, Any]:
        return run_job(self.jobs, self.jobs.held(self.jobs.add(kind, spec, owner="me")), handler)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def word(item: str, name: str = "stop", by: str = "anna", origin: Any = "person", **more: Any) -> Word:
    return Word(SIGN, item, ClassValue(name), origin, by, **more)


def test_the_same_word_is_kept_once_and_another_one_beside_it(office: Office) -> None:
    item = "a" * 64
    assert office.labels.say([word(item), word(item)]) == 1
    assert office.labels.say([word(item)]) == 0
    assert office.labels.say([word(item, "no entry"), word(item, by="ben")]) == 2
    assert [(w.by, w.value) for w in office.labels.words(SIGN)] == [
        ("anna", ClassValue("stop")),
        ("anna", ClassValue("no entry")),
        ("ben", ClassValue("stop")),
    ]
    verdict = office.labels.verdicts(SIGN)[item]
    assert (verdict.word.by, [w.by for w in verdict.against]) == ("ben", ["anna"])


def test_new_labels_are_counted_by_item_and_only_those_that_can_be_trained_on(office: Office) -> None:
    office.labels.say([word("a" * 64), word("b" * 64)])
    before = office.now
    office.now += timedelta(hours=1)
    office.labels.say([word("a" * 64, "no entry"), word("a" * 64, by="ben")])
    office.labels.say([word(c * 64, by="t", origin="teacher", confidence=v) for c, v in (("c", 0.99), ("d", 0.5))])
    assert office.labels.new_since(SIGN, before) == 2
    assert office.labels.new_since(SIGN, before - timedelta(hours=1)) == 3
    assert office.labels.new_since(SIGN, before, ["t"]) == 1, "what that teacher said is no news"
    assert office.labels.new_since("traffic-speed", before) == 0
    assert {(count.origin, count.by, count.items) for count in office.labels.counts()} == {
        ("person", "anna", 2),
        ("person", "ben", 1),
        ("teacher", "t", 2),
    }


def test_people_are_asked_the_most_doubtful_first_and_not_what_they_said_already(office: Office) -> None:
    sure, doubtful, denied, done = (office.capture("a", seq) for seq in range(1, 5))
    office.decided(("a", 1, 14, 0.99), ("a", 2, 14, 0.4), ("a", 3, 14, 0.9), ("a", 4, 14, 0.2))
    told = word(denied, "no entry", "teacher big", "teacher", confidence=0.8, disagreement=0.95)
    office.labels.say([told, word(done)])
    exported = office.labelling.ask(SIGN, get_format("label-studio"), office.root / "out")
    tasks = json.loads(exported.file.read_text())
    assert [task["data"]["sha256"] for task in tasks] == [denied, doubtful, sure]
    assert tasks[0]["data"]["decision"] == "stop"
    assert tasks[0]["predictions"][0]["result"][0]["value"] == {"choices": ["no entry"]}
    assert {path.name.split("-")[1][:64] for path in (office.root / "out" / "images").iterdir()} == {
        denied,
        doubtful,
        sure,
    }
    limited = office.labelling.ask(SIGN, get_format("csv"), office.root / "one", limit=1)
    assert (limited.items, denied in limited.file.read_text()) == (1, True)
    again = office.labelling.ask(SIGN, get_format("csv"), office.root / "again", again=True)
    assert again.items == 4
    with pytest.raises(ConflictError, match="not empty"):
        office.labelling.ask(SIGN, get_format("csv"), office.root / "out")


def test_nobody_is_asked_about_what_is_damaged_or_of_a_vehicle_that_is_not_believed(office: Office) -> None:
    good, changed = office.capture("a", 1), office.capture("a", 2)
    office.capture("b", 3)
    office.blob(changed).write_bytes(b"no image")
    office.quarantined.add("b")
    exported = office.labelling.ask(SIGN, get_format("csv"), office.root / "out")
    assert (exported.items, exported.left_out) == (1, {"quarantined": 1, "changed": 1})
    assert good in exported.file.read_text()


def test_answers_are_kept_once_and_strangers_are_named(office: Office) -> None:
    item = office.capture("a", 1)
    path = office.root / "labels.csv"
    path.write_text(f"sha256,label,track,by\n{item},14,t1,\n{'f' * 64},stop,,\n")
    heard = office.labelling.hear(SIGN, get_format("csv"), path, "anna")
    assert (heard.new, heard.known, heard.unknown) == (1, 0, ("f" * 64,))
    assert office.labelling.hear(SIGN, get_format("csv"), path, "anna").new == 0
    (kept,) = office.labels.words(SIGN)
    assert (kept.value, kept.origin, kept.by) == (ClassValue("stop", "t1"), "person", "anna")
    path.write_text(f"sha256,label,weather\n{item},stop,hail\n")
    with pytest.raises(DataError, match=r"labels\.csv: line 2: weather 'hail' is none of clear, "):
        office.labelling.hear(SIGN, get_format("csv"), path, "anna")
    path.write_text(f"sha256,label\n{item},stopp\n")
    with pytest.raises(DataError, match=r"labels\.csv: line 2: label 'stopp'"):
        office.labelling.hear(SIGN, get_format("csv"), path, "anna")
    with pytest.raises(NotFoundError, match="traffic-sign"):
        office.labelling.hear("traffic-speed", get_format("csv"), path, "anna")


def register_teachers(office: Office, count: int = 1) -> list[str]:
    """The factory's classifier under other names; a real teacher would be larger."""
    names = []
    for number in range(count):
        directory = office.root / f"teacher-{number}"
        shutil.copytree(packaged_bundles()[SIGN], directory)
        manifest = json.loads((directory / "manifest.json").read_text())
        manifest["version"] = f"big-{number}"
        (directory / "manifest.json").write_text(json.dumps(manifest))
        names.append(office.registry.models.register(directory).version)
    return names


def test_a_teacher_labels_once_and_says_how_far_it_is_from_the_vehicle(office: Office) -> None:
    (big,) = register_teachers(office)
    items = [office.capture("a", seq) for seq in range(1, 7)]
    office.blob(items[5]).unlink()
    office.decided(*((("a", seq, (seq * 7) % 43, 0.5)) for seq in range(1, 4)))
    result = office.run(teacher.KIND, {"task": SIGN, "teachers": [big]}, office.teaching.run)
    assert (result["labelled"], result["damaged"]) == (5, 1)
    words = {word.item: word for word in office.labels.words(SIGN)}
    assert set(words) == set(items[:5])
    assert {word.by for word in words.values()} == {"teacher big-0"}
    assert all(0 < (word.confidence or 0) <= 1 for word in words.values())
    names = [words[item].value for item in items[:3]]
    against = [value != ClassValue(SIGN_LABELS[(seq * 7) % 43]) for seq, value in zip(range(1, 4), names, strict=True)]
    assert result["disagreed"] == sum(against)
    assert [words[item].disagreement is None for item in items[:5]] == [False, False, False, True, True]
    assert office.run(teacher.KIND, {"task": SIGN, "teachers": [big]}, office.teaching.run)["labelled"] == 0
    assert len(office.labels.words(SIGN)) == 5


def test_a_teacher_of_what_nobody_labelled_leaves_the_others_and_people_see_where_it_disagrees(office: Office) -> None:
    (big,) = register_teachers(office)
    items = [office.capture("a", seq) for seq in range(1, 6)]
    office.decided(*((("a", seq, (seq * 7) % 43, 0.5)) for seq in range(1, 6)))
    sure = word(items[1], by="other", origin="teacher", confidence=0.95)
    unsure = word(items[2], by="other", origin="teacher", confidence=0.5)
    office.labels.say([word(items[0]), sure, unsure])
    result = office.teaching.teach(TeachSpec(task=SIGN, teachers=(big,), unlabelled=True), lambda text, done: None)
    assert (result["by"], result["labelled"]) == ("teacher big-0", 3)
    said = {one.item: one for one in office.labels.words(SIGN) if one.by == "teacher big-0"}
    assert set(said) == set(items[2:])
    exported = office.labelling.ask(SIGN, get_format("label-studio"), office.root / "out")
    shown = [task["data"]["sha256"] for task in json.loads(exported.file.read_text())]
    by_doubt = sorted(said, key=lambda item: (-(said[item].disagreement or 0.0), item))
    assert [item for item in shown if item in said] == by_doubt


def test_several_teachers_are_the_mean_of_what_each_says(office: Office) -> None:
    one, two = register_teachers(office, 2)
    item = office.capture("a", 1)
    for teachers in ([one], [two, one]):
        office.run(teacher.KIND, {"task": SIGN, "teachers": teachers}, office.teaching.run)
    alone, both = office.labels.words(SIGN)
    assert (alone.by, both.by) == ("teacher big-0", "teacher big-0 + big-1")
    assert both.confidence == pytest.approx(alone.confidence)
    assert item == both.item


def test_a_teaching_that_was_killed_goes_on_with_what_is_left(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    (big,) = register_teachers(office)
    for seq in range(1, 6):
        office.capture("a", seq)
    monkeypatch.setattr(teacher, "_CHUNK", 2)
    job = office.jobs.held(office.jobs.add(teacher.KIND, {"task": SIGN, "teachers": [big]}, owner="me"))

    def show(text: str, done: float | None) -> None:
        if done is not None:
            raise SystemExit(text)

    with pytest.raises(SystemExit):
        run_job(office.jobs, job, office.teaching.run, show)
    assert len(office.labels.words(SIGN)) == 2
    assert run_job(office.jobs, job, office.teaching.run)["labelled"] == 3
    assert len(office.labels.words(SIGN)) == 5


def test_the_best_by_their_evaluation_teach_where_nobody_names_one(office: Office) -> None:
    names = register_teachers(office, 5)
    with pytest.raises(ConfigError, match="no version of traffic-sign was evaluated"):
        office.teaching.best(SIGN)
    for name, accuracy in zip(names, (0.9, 0.99, 0.95, 0.97, 0.5), strict=True):
        office.registry.models.record_evaluation(SIGN, name, {"onnx-int8": {"metrics": {"accuracy": accuracy}}})
    assert office.teaching.best(SIGN) == ("big-1", "big-2", "big-3")
    with pytest.raises(NotFoundError, match="no teacher for 'traffic-speed'"):
        office.run(teacher.KIND, {"task": "traffic-speed"}, office.teaching.run)


def test_disagreement_is_what_a_teacher_gives_to_others_than_the_vehicle() -> None:
    shares = np.array([0.7, 0.2, 0.1])
    assert form_opinion(shares, "abc", Decision(1, 0.9)).disagreement == pytest.approx(0.8)
    assert form_opinion(shares, "abc", Decision(9, 0.9)).disagreement == 1.0
    alone = form_opinion(shares, "abc", None)
    assert (alone.name, alone.confidence, alone.disagreement) == ("a", 0.7, None)


def keys(vehicle: str, count: int) -> dict[str, Any]:
    seqs = pa.array(range(1, count + 1), pa.int64())
    return {"vehicle": [vehicle] * count, "boot": pa.array([1] * count, pa.int64()), "seq": seqs, "t_ms": seqs}


def speed_decisions(vehicle: str, steps: list[int]) -> pa.Table:
    """A vehicle that expects 50 mph for ever; step 7 shows 57."""
    fields = {f"forecast_{minutes}min_mph": [50.0] * len(steps) for minutes in (15, 30, 45, 60)}
    observed = {"step": [float(step) for step in steps], "observed_mph": [50.0 + step for step in steps]}
    return pa.table(keys(vehicle, len(steps)) | fields | observed)


def test_a_forecast_is_labelled_by_what_came_once_all_of_it_has(office: Office) -> None:
    table = speed_decisions("a", [step for step in range(20) if step != 10])
    found = list(outcomes(FORECASTS[0], table))
    # An hour is 12 steps: 8 forecasts of 20 steps are complete, less those that await the missing step 10.
    labelled = [int(word.about.rsplit("/", 1)[1]) - 1 for word in found if word.about is not None]
    assert labelled == [step for step in range(8) if 10 not in {step + 3, step + 6, step + 9, step + 12}]
    value = found[0].value
    assert isinstance(value, MeasuredValue)
    assert (value.values["measured_15min_mph"], value.values["error_60min_mph"]) == (53.0, -12.0)
    office.streams["speed-decision"] = table
    office.streams["flow-forecast"] = pa.table(
        keys("b", 3) | {"step": [5.0, 6.0, 8.0], "flow_veh": [10.0, 20.0, 5.0], "forecast_veh": [18.0, 19.0, 1.0]}
    )
    result = office.run(measuring.KIND, {}, office.measuring.run)
    assert result == {"traffic-speed": len(found), "traffic-flow": 1, "localization": 0, "set_apart": []}
    assert not any(office.run(measuring.KIND, {}, office.measuring.run).values()), "said once"
    (flow,) = office.labels.words("traffic-flow")
    assert flow.value == MeasuredValue({"measured_5min_veh": 20.0, "error_5min_veh": -2.0})
    assert (flow.origin, flow.by, flow.about) == ("outcome", "flow-forecast", "flow-forecast/b/1/1")


def test_what_a_vehicle_in_quarantine_measured_is_no_label(office: Office) -> None:
    office.streams["speed-decision"] = speed_decisions("a", list(range(20)))
    office.quarantined.add("a")
    assert office.run(measuring.KIND, {}, office.measuring.run)["traffic-speed"] == 0


def positions(reference: np.ndarray[Any, Any], t_s: np.ndarray[Any, Any] | None = None) -> pa.Table:
    count = len(reference)
    times = np.arange(count) * 0.2 if t_s is None else t_s
    return pa.table(keys("a", count) | {"t_s": times, "odometer_mps": np.full(count, 10.0), "reference_mps": reference})


def test_gnss_counts_where_it_was_good_for_a_minute(office: Office) -> None:
    reference = np.full(1000, 10.5)
    reference[400:420] = np.nan
    reference[800] = 99.0
    (first, second) = gnss_stretches(positions(reference))
    assert (first.first_seq, first.last_seq) == (1, 400)
    assert (second.first_seq, second.last_seq) == (421, 800), "a jump of the reference is not believed"
    assert first.scale == pytest.approx(1.05)
    assert gnss_stretches(positions(np.full(250, 10.0))) == [], "less than a minute"
    back = np.concatenate([np.arange(400) * 0.2, np.arange(400) * 0.2])
    assert len(gnss_stretches(positions(np.full(800, 10.0), back))) == 2, "the source's clock was set"
    office.streams["position"] = positions(reference)
    assert office.run(measuring.KIND, {}, office.measuring.run)["localization"] == 2
    label = office.labels.words("localization")[0]
    assert label.value == MeasuredValue({"last_seq": 400.0, "seconds": 79.8, "odometer_scale": 1.05})
    assert (label.origin, label.about) == ("gnss", "position/a/1/1")


def drives(vehicles: dict[str, float], hours: int = 40) -> pa.Table:
    """Vehicles in which every forecast is missed by about so many mph."""
    tables = []
    for vehicle, missed in vehicles.items():
        table = speed_decisions(vehicle, list(range(hours * 12)))
        noise = np.random.default_rng(len(vehicle) + int(missed)).normal(50.0 - missed, 2.0, hours * 12)
        tables.append(table.set_column(table.column_names.index("observed_mph"), "observed_mph", pa.array(noise)))
    return pa.concat_tables(tables)


def test_a_vehicle_that_lies_with_labels_is_set_apart_and_left_out(office: Office) -> None:
    for vehicle in ("c", "d", "e"):
        add_vehicle(office.database, vehicle)
    office.streams["speed-decision"] = drives({"a": 1.0, "b": 0.0, "c": 2.0, "d": 0.5, "e": 35.0})
    assert office.run(measuring.KIND, {}, office.measuring.run)["set_apart"] == ["e"]
    (entry,) = office.drift.quarantine_entries()
    assert (entry.vehicle, entry.by) == ("e", "labels")
    assert entry.reason.startswith("labels of traffic-speed: error_") and "the others'" in entry.reason
    assert office.run(measuring.KIND, {}, office.measuring.run)["set_apart"] == [], "said once"
    office.streams["position"] = pa.concat_tables(
        [positions(np.full(400, 10.0)).set_column(0, "vehicle", pa.array([name] * 400)) for name in ("a", "e")]
    )
    datasets = make_datasets(
        office.database,
        Snapshots(office.root / "snapshots"),
        office.stream,
        office.blob,
        lambda task: pytest.fail("not asked"),
        quarantined=office.drift.quarantined(),
    )
    manifest = datasets.build(Selection("localization")).manifest
    assert (set(manifest.sources), manifest.excluded["quarantined"]) == ({"a"}, 400)


def test_a_persons_word_for_a_vehicle_stands_against_its_labels(office: Office) -> None:
    for vehicle in ("c", "d", "e"):
        add_vehicle(office.database, vehicle)
    office.streams["speed-decision"] = drives({"a": 1.0, "b": 0.0, "c": 2.0, "d": 0.5, "e": 35.0})
    office.run(measuring.KIND, {}, office.measuring.run)
    office.drift.lift("e", "anna")
    assert office.watch.look("traffic-speed") == []
    assert office.drift.quarantined() == set()
    office.now += timedelta(days=31)
    assert office.watch.look("traffic-speed") == [], "what was said a month ago says nothing of it any more"


def test_a_vehicle_whose_decisions_labels_contradict_is_set_apart_when_a_teacher_has_looked(office: Office) -> None:
    for vehicle in ("c", "d", "e"):
        add_vehicle(office.database, vehicle)
    decided = []
    for vehicle in ("a", "b", "c", "d", "e"):
        for class_id in range(43):
            seq = class_id + 1
            item = office.capture(vehicle, seq, seed=1000 * ord(vehicle) + class_id)
            office.labels.say([word(item, SIGN_LABELS[class_id])])
            decided.append((vehicle, seq, (class_id + (vehicle == "d")) % 43, 0.9))
    office.decided(*decided)
    (big,) = register_teachers(office)
    result = office.teaching.teach(TeachSpec(task=SIGN, teachers=(big,), unlabelled=True), lambda text, done: None)
    assert (result["labelled"], result["set_apart"]) == (0, ["d"])
    assert "decisions that labels contradict 1.00 from" in office.drift.quarantine_entries()[0].reason
