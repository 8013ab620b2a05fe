"""A model whose shape does not fit its slot: said, nobody else touched, and healed by the next release."""

from pathlib import Path

from roadloop_models.contract.messages import Desired, Policy
from roadloop_models.preprocess import ImageStandardize
from tests.fakes.agent import TestVehicle
from tests.fakes.broker import MosquittoBroker
from tests.fakes.bundles import tiny_bundle
from tests.fakes.repository import Repository, utc_now
from tests.fakes.small_cloud import SmallCloud
from tests.fakes.speed_bundle import speed_bundle

VAN = "van-1"
PROFILE = """
hardware = "test"
[sources.camera]
kind = "made-signs"
loop = true
[sources.loops]
kind = "made-speeds"
loop = true
[slots.speed]
task = "traffic-speed"
runtime = "onnx"
source = "loops"
rate_hz = 20.0
[slots.odd]
task = "traffic-sign"
runtime = "onnx"
source = "camera"
rate_hz = 20.0
"""


def test_a_model_that_does_not_fit_its_frames_is_reported_and_replaced_without_a_restart(tmp_path: Path) -> None:
    broker, repository = MosquittoBroker(tmp_path / "broker"), Repository(utc_now())
    bundles = {
        "speed": speed_bundle(tmp_path / "good"),
        # Its golden vectors pass: they are made for the file. What the camera's images become is larger.
        "odd": tiny_bundle(tmp_path / "odd", "odd", preprocess=ImageStandardize(48, 48).spec),
    }
    van = TestVehicle(tmp_path / VAN, VAN, broker, repository, bundles, PROFILE)
    with broker, SmallCloud(broker, repository) as cloud, van:
        cloud.wait("the misfit is reported", lambda: _trouble(cloud, "odd") == "model-input-invalid")
        drive = van.child("drive")
        before = cloud.ledger(VAN).stored("speed-decision")
        cloud.wait("the other slot decides", lambda: cloud.ledger(VAN).stored("speed-decision") >= before + 20)
        assert _trouble(cloud, "speed") is None
        ref = repository.add(tiny_bundle(tmp_path / "next", "next", seed=5), 2)
        desired = Desired(version=1, slots={"odd": ref}, policy=Policy(health_window_s=2.0))
        cloud.desire(VAN, desired)
        cloud.wait("the next release runs", lambda: cloud.reported[VAN].slots["odd"].running == ref, 60)
        cloud.wait("and is well", lambda: _trouble(cloud, "odd") is None, 60)
        assert van.child("drive") == drive


def _trouble(cloud: SmallCloud, slot: str) -> str | None:
    reported = cloud.reported.get(VAN)
    if reported is None:
        return "not reported yet"
    trouble = reported.slots[slot].trouble
    return None if trouble is None else trouble.code
