"""From telemetry to a signed release with real training: made speeds, a starter, and what vehicles sent of the rest."""

import json
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from click.testing import CliRunner

from roadloop_agent.drive.handlers.speed import speed_observations
from roadloop_cloud.app import Application
from roadloop_cloud.cli import main
from roadloop_cloud.config import Config
from roadloop_cloud.founding import found_workspace
from roadloop_cloud.identity.provisioning import load_profile
from roadloop_cloud.ingest.blobs import BlobFolder
from roadloop_cloud.ingest.service import IngestService
from roadloop_cloud.training.make import train_bundle
from roadloop_cloud.workspace import Workspace
from roadloop_models.bundle import file_sha256
from roadloop_models.contract import channels
from roadloop_models.contract.codec import encode
from roadloop_models.contract.columns import encode_columns
from roadloop_models.contract.messages import TelemetryBatch
from roadloop_models.contract.streams import ROAD_SPEED
from roadloop_models.tasks import get_task
from roadloop_models.tasks.speed_data import load_test_speeds, load_training_speeds
from tests.fakes.cloud import FakeTransport

TASK = "traffic-speed"
VEHICLES = ("car-1", "car-2")
BATCH = 100


def found(directory: Path, starter: Path) -> Application:
    """A workspace whose release 1 is the starter, and its vehicles."""
    found_workspace(directory / "fleet", Config(), {TASK: starter}, lambda _text, _done: None)
    app = Application(Workspace.open(directory / "fleet"))
    (directory / "profile.toml").write_text('hardware = "test"\n[slots.speed]\ntask = "traffic-speed"\n')
    for vehicle in VEHICLES:
        app.vehicles.add(vehicle, load_profile(str(directory / "profile.toml")), directory / vehicle)
    return app


def drive(app: Application, data: Path) -> None:
    """Each vehicle sends its stretch of the rows that the starter did not see, and both some of the test rows."""
    rest, held_out = load_training_speeds(data, "rest"), load_test_speeds(data)
    transport = FakeTransport()
    for vehicle, part in zip(VEHICLES, np.array_split(np.arange(len(rest)), len(VEHICLES)), strict=True):
        seen = [(int(rest.steps[row]), rest.speeds_mph[row]) for row in part]
        seen += [(int(held_out.steps[row]), held_out.speeds_mph[row]) for row in range(5)]
        samples = [(step, sample) for step, speeds in seen for sample in speed_observations(step, speeds)]
        for start in range(0, len(samples), BATCH):
            chunk = samples[start : start + BATCH]
            columns = encode_columns(
                ROAD_SPEED.fields, [step * 300_000 for step, _ in chunk], [row for _, row in chunk]
            )
            batch = TelemetryBatch(boot=1, first_seq=start + 1, last_seq=start + len(chunk), columns=columns)
            topic = channels.TELEMETRY.topic(vehicle, stream=ROAD_SPEED.name)
            transport.deliver(topic, encode(channels.TELEMETRY, batch))
    service = IngestService(transport, app.database, BlobFolder(app.workspace.blobs))
    while service.counters.messages < transport._message_id:
        service.step(Event())


@pytest.mark.slow
def test_the_candidate_is_trained_on_what_the_fleet_sent(tmp_path: Path) -> None:
    data = tmp_path / "data"
    get_task(TASK).write_made_data(data, seed=1)
    train_bundle(TASK, data, "starter-1", tmp_path / "starter", part="starter", epochs=1, made=True)
    app = found(tmp_path, tmp_path / "starter")
    drive(app, data)
    done = CliRunner().invoke(
        main,
        [
            *("retrain", "--task", TASK, "--data", str(data), "--version", "next-1", "--epochs", "2"),
            *("--rollout", "1,100%", "--workspace", str(app.workspace.root), "--json"),
        ],
    )
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    rest = load_training_speeds(data, "rest")
    assert result["snapshot"]["rows"] == len(rest)
    assert result["snapshot"]["excluded"] == {"held-out": 5}
    assert result["candidate"]["value"] < result["incumbent"]["value"]
    manifest = app.models.bundle(TASK, "next-1").manifest
    assert manifest.lineage.parent_version == "starter-1"
    assert manifest.lineage.snapshot_sha256 == result["snapshot"]["sha256"]
    variants = {variant.key: variant.file for variant in manifest.variants}
    weights = app.models.directory(TASK, "next-1") / variants[result["variant"]]
    assert result["evaluated_sha256"] == file_sha256(weights)
    assert result["explained"]["rows"] == 6, result["explained"]["why"]
    assert "](explanation.png)" in (app.evaluations.of(TASK, "next-1") / "card" / "MODEL_CARD.md").read_text()
    assert app.releases.get(TASK, result["release"]).version == "next-1"
    assert app.rollouts.show(result["rollout"]).spec.wave_sizes == (1, 1)
