"""The real agent with a camera that is switched off and on: the slot says so, the other goes on, nothing restarts."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.agent import TestVehicle
from tests.fakes.broker import MosquittoBroker
from tests.fakes.bundles import tiny_bundle
from tests.fakes.repository import Repository, utc_now
from tests.fakes.rtsp import RtspCamera

SECRET = "s3cret"
PROFILE = """
hardware = "test"
[sources.front]
kind = "camera"
url = "{url}"
timeout_s = 1.0
open_timeout_s = 3.0
[sources.made]
kind = "made-signs"
loop = true
[slots.camera]
task = "traffic-sign"
runtime = "onnx"
source = "front"
rate_hz = 20.0
deadline_ms = 2000.0
[slots.other]
task = "traffic-sign"
runtime = "onnx"
source = "made"
rate_hz = 20.0
priority = 10
"""


@pytest.fixture
def camera() -> Iterator[RtspCamera]:
    with RtspCamera(password=SECRET) as camera:
        yield camera


@pytest.fixture
def van(tmp_path: Path, camera: RtspCamera) -> TestVehicle:
    """Provisioned, and not started."""
    bundle = tiny_bundle(tmp_path / "bundle")
    return TestVehicle(
        tmp_path / "van-1",
        "van-1",
        MosquittoBroker(tmp_path / "broker"),
        Repository(utc_now()),
        {"camera": bundle, "other": bundle},
        PROFILE.format(url=camera.url(f"user:{SECRET}@")),
    )


def health(van: TestVehicle, slot: str) -> dict[str, Any]:
    """What drive said last of a slot; with no decisions before it has said anything."""
    state = van.status()
    return dict(state["health"].get(slot, {})) if state else {}


def decides(van: TestVehicle, slot: str) -> bool:
    return bool(health(van, slot).get("decisions"))


def test_a_camera_that_goes_off_is_reported_and_comes_back_while_all_else_drives(
    van: TestVehicle, camera: RtspCamera
) -> None:
    with van:
        van.wait("both slots decide", lambda: decides(van, "camera") and decides(van, "other"))
        drive = van.child("drive")
        camera.close()
        van.wait("the slot is in trouble", lambda: (van.status()["slots"]["camera"]["trouble"] or {}) != {})
        assert health(van, "camera")["idle"]
        trouble = van.status()["slots"]["camera"]["trouble"]
        assert trouble["code"] == "retry-later"
        assert van.status()["slots"]["other"]["trouble"] is None
        van.wait("the other slot decides", lambda: decides(van, "other"), 5.0)
        with RtspCamera(camera.port, SECRET):
            van.wait("the camera's slot decides again", lambda: decides(van, "camera"))
            van.wait("the trouble is over", lambda: van.status()["slots"]["camera"]["trouble"] is None)
            assert van.child("drive") == drive
            assert van.stop() == 0
        assert "terminate called" not in van.log() and "Fatal" not in van.log()
        assert SECRET not in van.log() and SECRET not in str(van.status())
        assert "source front: gives frames again" in van.log()


def test_validate_looks_through_the_camera(van: TestVehicle, camera: RtspCamera) -> None:
    command = [sys.executable, "-m", "roadloop_agent.cli", "validate", "--config", str(van.config), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert {slot["slot"]: slot["sees"] for slot in json.loads(done.stdout)["slots"]}["camera"] == "128x96"
    camera.close()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"sources.front: rtsp://127.0.0.1:{camera.port}/front: no stream there" in done.stderr
    assert SECRET not in done.stdout + done.stderr
