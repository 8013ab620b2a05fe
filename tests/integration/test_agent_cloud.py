"""The real agent from a folder that the cloud made, against the cloud's own ingest behind its own broker."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from roadloop_cloud.identity.provisioning import load_profile
from tests.fakes.agent import SIGN_PROFILE, RunningAgent
from tests.fakes.live_cloud import LiveCloud, wait_until

VAN = "van-1"


@pytest.fixture
def cloud(tmp_path: Path) -> LiveCloud:
    return LiveCloud(tmp_path)


@pytest.fixture
def agent(cloud: LiveCloud, tmp_path: Path) -> RunningAgent:
    profile = tmp_path / "drives.toml"
    profile.write_text(SIGN_PROFILE)
    cloud.app.vehicles.add(VAN, load_profile(str(profile)), tmp_path / VAN)
    return RunningAgent(tmp_path / VAN)


def roadloop_agent(agent: RunningAgent, command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "roadloop_agent.cli", command, "--config", str(agent.config), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_folder_that_the_cloud_makes_is_valid_and_the_tampered_one_is_not(agent: RunningAgent) -> None:
    done = roadloop_agent(agent, "validate")
    assert done.returncode == 0, done.stderr
    (slot,) = json.loads(done.stdout)["slots"]
    assert (slot["slot"], slot["release"], slot["variant"]) == ("sign", 1, "onnx-int8")
    (manifest,) = (agent.directory / "releases").glob("*/manifest.json")
    manifest.write_bytes(manifest.read_bytes().replace(b"tiny", b"tany"))
    for refused in (roadloop_agent(agent, "validate"), agent.run_to_its_end()):
        assert refused.returncode == 2
        assert "error: " in refused.stderr and "manifest" in refused.stderr


def test_what_a_vehicle_produces_is_stored_once_and_nothing_is_lost(cloud: LiveCloud, agent: RunningAgent) -> None:
    with cloud.broker(), cloud.ingest():
        with agent:
            wait_until("samples are stored", lambda: cloud.app.telemetry.totals().stored >= 200)
            agent.kill("link")
            before = cloud.app.telemetry.totals().stored
            wait_until("samples are stored again", lambda: cloud.app.telemetry.totals().stored >= before + 100)
        wait_until("all are accounted for", lambda: cloud.app.telemetry.totals().missing == 0)
    totals = cloud.app.telemetry.totals()
    assert totals.duplicates == 0
    assert totals.produced == totals.stored + totals.lost
