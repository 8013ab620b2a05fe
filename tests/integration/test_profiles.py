"""Every hardware profile that Roadloop brings is one that a vehicle can run: `validate`, with the factory bundles."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from roadloop_agent.config import load_profile
from roadloop_models.bundle import Bundle
from roadloop_models.packaged import packaged_bundles
from tests.fakes.agent import TestVehicle
from tests.fakes.broker import MosquittoBroker
from tests.fakes.repository import Repository, utc_now

PROFILES = sorted((Path(__file__).parents[2] / "firmware_configs" / "profiles").glob("*.toml"))
VAN = "van-1"


def test_the_hardware_that_is_promised_has_its_profile() -> None:
    promised = {"x86-64-onnx", "x86-64-tflite", "jetson-orin", "raspberry-pi-5", "imx8m-plus"}
    assert promised <= {path.stem for path in PROFILES}


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_profile_validates(tmp_path: Path, path: Path) -> None:
    profile = load_profile(path)
    bundles = {slot: Bundle.open(packaged_bundles()[table.task]) for slot, table in profile.slots.items()}
    broker = MosquittoBroker(tmp_path / "broker")
    van = TestVehicle(tmp_path / VAN, VAN, broker, Repository(utc_now()), bundles, path.read_text(encoding="utf-8"))
    command = [sys.executable, "-m", "roadloop_agent.cli", "validate", "--config", str(van.config), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reports: dict[str, dict[str, Any]] = {report["slot"]: report for report in json.loads(done.stdout)["slots"]}
    assert reports.keys() == profile.slots.keys()
    missing = done.stderr.partition("; it runs with")[0]
    for slot, table in profile.slots.items():
        got = reports[slot]["providers"]
        assert got and reports[slot]["variant"] == table.variant_key
        if table.runtime == "onnx":  # what is missing here is done without, and said
            for provider in table.providers:
                assert (provider in got) != (provider in missing)
