"""`roadloop label` and `roadloop dataset` as a person types them."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from roadloop_cloud.app import Application
from roadloop_cloud.cli import main
from roadloop_cloud.labels.words import MeasuredValue, Word, sample_item
from roadloop_cloud.store.database import now_utc
from roadloop_cloud.store.ingest_tables import Capture
from roadloop_models.tasks.made_signs import made_signs
from roadloop_models.tasks.sign_classes import SIGN_LABELS
from tests.fakes.cloud import add_vehicle
from tests.fakes.live_cloud import LiveCloud

TASK = "traffic-sign"


class Desk:
    """Somebody at a workspace to which one vehicle has sent six pictures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.app: Application = LiveCloud(folder, "van-1").app
        for seq, image in enumerate(made_signs(6, 1, 5).images[:6], 1):
            self.keep(cv2.imencode(".png", image[:, :, ::-1])[1].tobytes(), seq)

    def keep(self, content: bytes, seq: int) -> None:
        sha256 = hashlib.sha256(content).hexdigest()
        path = self.app.workspace.blob(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        row = Capture(vehicle="van-1", boot=1, about_stream="sign-decision", about_seq=seq, sha256=sha256, task=TASK)
        row.size_bytes, row.media_type, row.t_ms, row.received = len(content), "image/png", seq, now_utc()
        with self.app.database.transaction() as session:
            session.add(row)

    def run(self, *arguments: str | Path) -> Result:
        words = [*map(str, arguments), "--workspace", str(self.app.workspace.root)]
        return CliRunner().invoke(main, words)

    def json(self, *arguments: str | Path) -> Any:
        done = self.run(*arguments, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def text(self, *arguments: str | Path) -> str:
        done = self.run(*arguments)
        assert done.exit_code == 0, done.output
        return done.stdout


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_from_captures_over_labels_to_snapshots_and_what_changed(desk: Desk) -> None:
    out = desk.folder / "out"
    assert "6 items" in desk.text("label", "export", "--task", TASK, "--format", "cvat", out)
    file = out / "annotations.xml"
    tag = f'<tag label="{SIGN_LABELS[14]}"/></image>'
    file.write_text(re.sub(r"(<image [^>]*?) />", rf"\1>{tag}", file.read_text()))
    assert "6 new labels" in desk.text(*f"label import --task {TASK} --format cvat --by anna".split(), file)
    assert desk.json(*f"label import --task {TASK} --format cvat --by anna".split(), file)["new"] == 0
    assert "anna" in desk.text("label", "list")
    assert len(desk.json("label", "list", "--task", TASK, "--limit", "4")) == 4
    before = desk.json("dataset", "build", "--task", TASK)
    assert (before["rows"], before["labels"]) == (6, {"person": 6})
    item = desk.json("label", "list", "--task", TASK)[0]["item"]
    (desk.folder / "more.csv").write_text(f"sha256,label\n{item},no entry\n{'0' * 64},stop\n")
    said = desk.text("label", "import", "--task", TASK, "--by", "ben", desk.folder / "more.csv")
    assert "1 new labels" in said and "1 of items that were never captured" in said
    after = desk.text("dataset", "build", "--task", TASK)
    assert "people-disagree" in after and item[:20] in after
    changed = desk.json("dataset", "diff", "--task", TASK)
    assert [row.split(":")[0] for row in changed["relabelled"]] == [item]


def test_labels_given_to_the_build_are_kept_with_the_files_name(desk: Desk) -> None:
    items = [row.sha256 for row in desk.app.captures.of(TASK)]
    (desk.folder / "by-hand.csv").write_text("sha256,label\n" + "".join(f"{item},14\n" for item in items))
    built = desk.json("dataset", "build", "--task", TASK, "--labels", desk.folder / "by-hand.csv")
    assert built["rows"] == 6
    assert {count.by for count in desk.app.labels.counts()} == {"by-hand.csv"}


def test_quarantined_by_a_person_means_left_out(desk: Desk) -> None:
    items = [row.sha256 for row in desk.app.captures.of(TASK)]
    (desk.folder / "l.csv").write_text("sha256,label\n" + "".join(f"{item},14\n" for item in items))
    assert desk.run("label", "import", "--task", TASK, desk.folder / "l.csv").exit_code == 0
    desk.app.drift.quarantine("van-1", "its camera lies")
    done = desk.run("dataset", "build", "--task", TASK)
    assert (done.exit_code, "'quarantined': 6" in done.stderr) == (2, True)
    assert desk.json("label", "export", "--task", TASK, desk.folder / "none")["left_out"] == {"quarantined": 6}


def test_a_vehicle_that_lies_with_labels_is_reported_wherever_somebody_looks(desk: Desk) -> None:
    chance, words = np.random.default_rng(1), list[Word]()
    for number in range(2, 8):
        vehicle = f"van-{number}"
        add_vehicle(desk.app.database, vehicle)
        missed = chance.normal(60.0 if vehicle == "van-4" else 0.0, 3.0, 480)
        for seq, error in enumerate(missed.tolist()):
            item, about = sample_item("flow-forecast", vehicle, 1, seq)
            value = MeasuredValue({"error_5min_veh": error})
            words.append(Word("traffic-flow", item, value, "outcome", "flow-forecast", about=about))
    desk.app.labels.say(words)
    assert "van-4 is set apart now" in desk.text("label", "measure")
    assert desk.json("label", "measure")["set_apart"] == []
    (entry,) = desk.json("drift")["quarantined"]
    assert (entry["vehicle"], entry["by"]) == ("van-4", "labels")
    assert "labels of traffic-flow: error_5min_veh" in entry["reason"]
    assert "nothing of van-4 is believed" in desk.text("drift")
    assert "nothing of van-4 is believed" in desk.run("label", "list").stderr
    assert desk.app.quarantined() == {"van-4"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("dataset build --task traffic-sign", "nothing of traffic-sign is labelled yet"),
        ("dataset build --task drive-state", "there are those of traffic-sign, traffic-speed"),
        ("dataset build --task localization --with-test", "--with-test"),
        ("dataset diff --task traffic-sign", "0 snapshots"),
        ("dataset diff 3f2a9c", "name two snapshots"),
        ("label teach --task traffic-sign", "no version of traffic-sign was evaluated"),
        ("label teach --task traffic-speed", "no teacher for"),
        ("label export --task traffic-speed ./x", "no items of 'traffic-speed'"),
    ],
)
def test_what_is_missing_is_said(desk: Desk, arguments: str, says: str) -> None:
    done = desk.run(*arguments.split())
    assert (done.exit_code, says in done.stderr) == (2, True), done.output
