"""The real agent with a camera that is switched off and on: the slot says so, the other goes on, nothing restarts."""

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
def van(tmp_path: Path, camera: RtspCamera) -> Iterator[TestVehicle]:
    bundle = tiny_bundle(tmp_path / "bundle")
    van = TestVehicle(
        tmp_path / "van-1",
        "van-1",
        MosquittoBroker(tmp_path / "broker"),
        Repository(utc_now()),
        {"camera": bundle, "other": bundle},
        PROFILE.format(url=camera.url(f"user:{SECRET}@")),
    )
    with van:
        yield van


def health(van: TestVehicle, slot: str) -> dict[str, Any]:
    """What drive said last of a slot; with no decisions before it has said anything."""
    state = van.status()
    return dict(state["health"].get(slot, {})) if state else {}


def decides(van: TestVehicle, slot: str) -> bool:
    return bool(health(van, slot).get("decisions"))


def test_a_camera_that_goes_off_is_reported_and_comes_back_while_all_else_drives(
    van: TestVehicle, camera: RtspCamera
) -> None:
    van.wait("both slots decide", lambda: decides(van, "camera") and decides(van, "other"))
    drive = van.child("drive")
    camera.close()
    van.wait("the slot is in trouble", lambda: (van.status()["slots"]["camera"]["trouble"] or {}) != {})
    assert health(van, "camera")["idle"]
    trouble = van.status()["slots"]["camera"]["trouble"]
    assert trouble["code"] == "retry-later"
    assert van.status()["slots"]["other"]["trouble"] is None
    assert decides(van, "other")
    with RtspCamera(camera.port, SECRET):
        van.wait("the camera's slot decides again", lambda: decides(van, "camera"))
        van.wait("the trouble is over", lambda: van.status()["slots"]["camera"]["trouble"] is None)
        assert van.child("drive") == drive
        assert van.stop() == 0
    assert "terminate called" not in van.log() and "Fatal" not in van.log()
    assert SECRET not in van.log() and SECRET not in str(van.status())
    assert "source front: gives frames again" in van.log()
