"""The demo from end to end, as a person runs it, and what its summary must say."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
SUMMARY = REPOSITORY / "build" / "demo" / "summary.json"
HIGHER_IS_BETTER = {"traffic-sign": True, "traffic-speed": False}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.realdata
def test_the_whole_loop() -> None:
    """On real data where there is any; the two differ only in where the rows come from."""
    folder = os.environ.get("ROADLOOP_DATA")
    data = "made" if folder is None else "real"
    SUMMARY.unlink(missing_ok=True)
    command = [str(REPOSITORY / "scripts" / "demo"), "--data", folder or "none"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    summary = json.loads(SUMMARY.read_text(encoding="utf-8"))
    assert summary["data"] == data
    assert summary["broker"]["tls"] is True
    _check_fleet(summary)
    _check_learning(summary)
    telemetry = summary["telemetry"]
    assert telemetry["lost"] == telemetry["duplicates"] == 0
    assert telemetry["produced"] == telemetry["stored"] > 10_000
    assert telemetry["bytes_per_sample"] <= 40


def _check_fleet(summary: dict[str, Any]) -> None:
    assert len(summary["vehicles"]) >= 6
    assert {vehicle["runtime"] for vehicle in summary["vehicles"]} == {"onnx", "tflite"}
    candidates = {task: outcome["candidate"]["version"] for task, outcome in summary["tasks"].items()}
    assert all(vehicle["versions"] == candidates for vehicle in summary["vehicles"])
    for rollout in summary["rollout"]:
        assert rollout["state"] == "succeeded"
        assert len(rollout["waves"]) >= 2
        assert all(wave["succeeded"] == wave["size"] and wave["failed"] == 0 for wave in rollout["waves"])
    outcomes = {fault["fault"]: fault["outcome"] for fault in summary["faults"]}
    assert len(outcomes) == 3
    assert "trust-refused" in outcomes["tampered release offered"]
    assert "resumed with the" in outcomes["agent killed in the middle of a download"]


def _check_learning(summary: dict[str, Any]) -> None:
    assert summary["tasks"].keys() == HIGHER_IS_BETTER.keys()
    for task, higher_is_better in HIGHER_IS_BETTER.items():
        outcome = summary["tasks"][task]
        gain = outcome["candidate"]["value"] - outcome["incumbent"]["value"]
        assert (gain > 0) == higher_is_better and gain != 0
        assert outcome["rows"] > 0 and len(outcome["evaluated_sha256"]) == 64
