"""The real agent: two slots that change together, once somebody has said yes; and back together when one does badly."""

import json
import subprocess
import sys
from pathlib import Path

from roadloop_models.bundle import Bundle
from roadloop_models.contract.messages import Desired, Policy, ReleaseRef, ReportedSlot, SwitchWhen
from roadloop_models.packaged import packaged_bundles
from roadloop_models.preprocess import ImageStandardize
from tests.fakes.agent import TestVehicle
from tests.fakes.broker import MosquittoBroker
from tests.fakes.bundles import tiny_bundle
from tests.fakes.repository import Repository, utc_now
from tests.fakes.small_cloud import SmallCloud

VAN = "van-1"
PROFILE = """
hardware = "test"
[sources.camera]
kind = "made-signs"
loop = true
[sources.signals]
kind = "made-drive"
loop = true
[slots.left]
task = "traffic-sign"
runtime = "onnx"
source = "camera"
rate_hz = 20.0
[slots.right]
task = "traffic-sign"
runtime = "onnx"
source = "camera"
rate_hz = 20.0
[slots.state]
task = "drive-state"
runtime = "onnx"
source = "signals"
rate_hz = 1.0
"""
ASKING = SwitchWhen(consent=True)
WAIT_S = 90.0


def test_slots_change_together_with_consent_and_back_together(tmp_path: Path) -> None:
    broker, repository = MosquittoBroker(tmp_path / "broker"), Repository(utc_now())
    first = tiny_bundle(tmp_path / "first")
    bundles = {"left": first, "right": first, "state": Bundle.open(packaged_bundles()["drive-state"])}
    van = TestVehicle(tmp_path / VAN, VAN, broker, repository, bundles, PROFILE)
    two, three, four = (repository.add(tiny_bundle(tmp_path / f"v{n}", f"v{n}", seed=n), n) for n in (2, 3, 4))
    # Its golden vectors pass: they are made for the file. What the camera's images become is larger.
    odd = repository.add(tiny_bundle(tmp_path / "odd", "odd", preprocess=ImageStandardize(48, 48).spec), 5)
    with broker, SmallCloud(broker, repository) as cloud, van:
        cloud.desire(VAN, together(1, two, three, van, ASKING))
        cloud.wait(
            "both wait for consent", lambda: waits(cloud) == ["consent, slot right", "consent, slot left"], WAIT_S
        )
        assert [slot.running for slot in pair(cloud)] == [van.refs["left"]] * 2

        assert consent(van, "--slot", "left", "--release", "3").returncode == 2, "another slot's release"
        said: list[str] = []

        def agreed() -> bool:
            """What waits is read from the status that link writes every two seconds."""
            answer = consent(van)
            said.append(answer.stdout)
            return answer.returncode == 0

        cloud.wait("consent is taken", agreed, WAIT_S)
        assert [word["slot"] for word in json.loads(said[-1])] == ["left", "right"]
        cloud.wait("both are confirmed", lambda: both(cloud, "idle", [two, three]), WAIT_S)

        cloud.desire(VAN, together(2, four, odd, van, SwitchWhen()))
        cloud.wait("both are taken back", lambda: both(cloud, "rolled-back", [two, three]), WAIT_S)
        left, right = pair(cloud)
        assert left.error is not None and right.error is not None
        assert (left.error.code, right.error.code) == ("companion-failed", "health-failed")

        cloud.desire(VAN, together(3, four, three, van, SwitchWhen(parked=True)))
        cloud.wait(
            "it knows that it is not parked", lambda: reported(cloud, "left").waits_for == "a parked vehicle", WAIT_S
        )


def together(version: int, left: ReleaseRef, right: ReleaseRef, van: TestVehicle, when: SwitchWhen) -> Desired:
    policy = Policy(health_window_s=3.0, switch_when=when)
    slots = {"left": left, "right": right, "state": van.refs["state"]}
    return Desired(version=version, slots=slots, policy=policy, together=True)


def consent(van: TestVehicle, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "roadloop_agent.cli", "consent", "--config", str(van.config), "--json", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def reported(cloud: SmallCloud, slot: str) -> ReportedSlot:
    return cloud.reported[VAN].slots[slot]


def pair(cloud: SmallCloud) -> tuple[ReportedSlot, ReportedSlot]:
    return reported(cloud, "left"), reported(cloud, "right")


def waits(cloud: SmallCloud) -> list[str]:
    return [slot.waits_for for slot in pair(cloud)] if VAN in cloud.reported else []


def both(cloud: SmallCloud, state: str, running: list[ReleaseRef]) -> bool:
    return all((slot.state, slot.running) == (state, ref) for slot, ref in zip(pair(cloud), running, strict=True))
