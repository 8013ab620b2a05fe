"""A generation of sign pictures that nobody labelled: taught, trained, judged, and trained on aware of int8 where it is
refused. Real registry, teacher and training, on made pictures."""

import hashlib
import json
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner

from roadloop_cloud.app import Application
from roadloop_cloud.cli import main
from roadloop_cloud.config import Config
from roadloop_cloud.founding import found_workspace
from roadloop_cloud.store.database import now_utc
from roadloop_cloud.store.ingest_tables import Capture
from roadloop_cloud.workspace import Workspace
from roadloop_models.packaged import packaged_bundles
from roadloop_models.tasks.made_signs import made_signs
from roadloop_models.tasks.sign_data import FOLDER, TEST_FILE, TRAIN_FILE, write_signs
from tests.fakes.cloud import add_vehicle

TASK = "traffic-sign"


def capture(app: Application, vehicle: str, count: int, seed: int) -> None:
    """Pictures that a vehicle sent, and of which nobody has said anything."""
    for seq, image in enumerate(made_signs(1, 1, seed).images[:count], start=1):
        content = cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()
        sha256 = hashlib.sha256(content).hexdigest()
        path = app.workspace.blob(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        about = {"about_stream": "sign-decision", "about_seq": seq, "task": TASK, "media_type": "image/png"}
        with app.database.transaction() as session:
            row = Capture(vehicle=vehicle, boot=1, sha256=sha256, size_bytes=len(content), t_ms=seq, **about)
            row.received = now_utc()
            session.add(row)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_nobody_labelled_is_taught_and_a_refused_candidate_is_trained_on(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    data = tmp_path / "data"
    write_signs(data / FOLDER / TRAIN_FILE, made_signs(1, 1, seed=2))
    write_signs(data / FOLDER / TEST_FILE, made_signs(1, 2, seed=3))
    found_workspace(tmp_path / "fleet", Config(), {TASK: packaged_bundles()[TASK]}, lambda _text, _done: None)
    app = Application(Workspace.open(tmp_path / "fleet"))
    for number, vehicle in enumerate(("car-1", "car-2")):
        add_vehicle(app.database, vehicle)
        capture(app, vehicle, 43, seed=10 + number)
    command = ["retrain", "--task", TASK, "--data", str(data), "--epochs", "1", "--teacher", "1", "--version", "next-1"]
    # No candidate is better by so much, and int8 is held to what it never reaches: both are made to happen.
    command += ["--margin", "1", "--qat-above", "0", "--workspace", str(app.workspace.root), "--json"]
    done = CliRunner().invoke(main, command)
    result = json.loads(done.stdout)
    assert (done.exit_code, result["accepted"]) == (1, False), done.output
    assert result["taught"]["by"].startswith("teacher factory-")
    assert result["taught"]["labelled"] == 86
    assert 0 < result["snapshot"]["rows"] <= 86
    rounded = result["quantization_aware"]
    assert rounded["allowed"] == 0 and rounded["trained_on"] == (rounded["lost"] > 0)
    steps = app.jobs.get(result["job"]).steps
    assert ("gate again" in steps) == rounded["trained_on"]
