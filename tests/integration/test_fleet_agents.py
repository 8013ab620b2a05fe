"""Real broker, real fleet process, real agents: a release reaches the fleet in waves, and a tampered one does not."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from roadloop_cloud.identity.provisioning import load_profile
from roadloop_cloud.rollout.service import RolloutView, Settings, Target
from tests.fakes.bundles import tiny_bundle
from tests.fakes.live_cloud import LiveCloud, wait_until
from tests.fakes.profiles import sign_profile

TASK = "traffic-sign"
BY_HTTPS = Settings(waves=("100%",), soak_s=0.5, timeout_s=90.0, health_window_s=2.0, transport="https")
VEHICLES = ("car-1", "car-2", "car-3")
FAST = Settings(waves=("1", "100%"), soak_s=0.5, timeout_s=90.0, health_window_s=2.0)
PROFILE = sign_profile(20.0)
ROOT = Path(__file__).resolve().parents[2]


class Fleet(LiveCloud):
    """A workspace whose vehicles can really drive."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        (directory / "drives.toml").write_text(PROFILE)
        for vehicle in VEHICLES:
            self.app.vehicles.add(vehicle, load_profile(str(directory / "drives.toml")), directory / vehicle)

    @contextmanager
    def process(self, name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """A process of the product; ended with SIGTERM, which must be enough."""
        environment = {**os.environ, "PYTHONPATH": ":".join(str(ROOT / part) for part in ("models", "agent", "cloud"))}
        with (self.directory / f"{name}.log").open("wb") as log:
            process = subprocess.Popen([sys.executable, *arguments], env=environment, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            assert process.wait(timeout=20) == 0, (self.directory / f"{name}.log").read_text()

    def fleet_process(self) -> AbstractContextManager[subprocess.Popen[bytes]]:
        arguments = ("-m", "roadloop_cloud.app", "fleet", "--workspace", str(self.app.workspace.root))
        return self.process("fleet", *arguments)

    def file_server(self) -> AbstractContextManager[subprocess.Popen[bytes]]:
        return self.process("files", "-m", "roadloop_cloud.app", "files", "--workspace", str(self.app.workspace.root))

    def files(self, vehicle: str) -> dict[str, Any]:
        """How files came, as the agent's status says."""
        run = "from roadloop_agent.cli import main; main()"
        config = str(self.directory / vehicle / "vehicle.toml")
        shown = subprocess.run(
            [sys.executable, "-c", run, "status", "--json", "--config", config], capture_output=True, check=True
        )
        found: dict[str, Any] = json.loads(shown.stdout)["files"]
        return found

    def agent(self, vehicle: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
        run = "from roadloop_agent.cli import main; main()"
        config = str(self.directory / vehicle / "vehicle.toml")
        return self.process(vehicle, "-c", run, "run", "--config", config)

    def release(self, version: str, seed: int) -> int:
        self.app.models.register(tiny_bundle(self.directory / version, version, seed=seed).directory)
        return self.app.releases.publish(TASK, version).release

    def running(self) -> dict[str, str | None]:
        """Vehicle -> version that it says it runs."""
        found = {}
        for row in self.app.vehicles.list():
            slot = (row.reported or {}).get("slots", {}).get("sign", {})
            found[row.id] = (slot.get("running") or {}).get("version")
        return found

    def behind(self) -> list[str]:
        """Vehicles that have not verified their newest assignment."""
        seen = {row.id: (row.reported or {}).get("director_version", 0) for row in self.app.vehicles.list()}
        return [vehicle for vehicle, version in seen.items() if self.app.directors.behind_s(vehicle, version) > 0]

    def ended(self, rollout: int) -> RolloutView:
        wait_until("the rollout ends", lambda: self.app.rollouts.show(rollout).state != "running", timeout_s=120)
        return self.app.rollouts.show(rollout)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    with ExitStack() as stack:
        stack.enter_context(made.broker())
        stack.enter_context(made.fleet_process())
        for vehicle in VEHICLES:
            stack.enter_context(made.agent(vehicle))
        wait_until("all report", lambda: set(made.running().values()) == {"tiny-1"}, timeout_s=60)
        yield made


@pytest.mark.slow
def test_a_release_in_waves_then_a_tampered_one(fleet: Fleet) -> None:
    second = fleet.release("tiny-2", seed=2)
    view = fleet.ended(fleet.app.rollouts.create(TASK, second, Target(everyone=True), FAST))
    assert (view.state, view.reason) == ("succeeded", "")
    assert set(fleet.running().values()) == {"tiny-2"}
    assert fleet.app.releases.incumbent(TASK).release == second
    wait_until("all have seen their newest assignment", lambda: not fleet.behind(), timeout_s=60)

    third = fleet.release("tiny-3", seed=3)
    (weights,) = (fleet.app.workspace.repository / "targets" / TASK / str(third)).glob("*.onnx-int8.onnx")
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    view = fleet.ended(fleet.app.rollouts.create(TASK, third, Target(everyone=True), FAST))
    assert view.state == "failed"
    assert "trust-refused" in view.reason
    assert [member.state for member in view.members].count("waiting") == 2, "the other wave was never offered it"
    assert set(fleet.running().values()) == {"tiny-2"}


@pytest.mark.slow
def test_a_sealed_release_drives_and_a_patch_comes_instead_of_a_file(tmp_path: Path) -> None:
    fleet, van = Fleet(tmp_path), VEHICLES[0]
    with ExitStack() as stack:
        stack.enter_context(fleet.broker())
        stack.enter_context(fleet.fleet_process())
        stack.enter_context(fleet.agent(van))
        wait_until("it reports", lambda: fleet.running()[van] == "tiny-1", timeout_s=60)

        bundle = tiny_bundle(tmp_path / "tiny-2", "tiny-2", nudge=0.5)
        fleet.app.models.register(bundle.directory)
        patched = fleet.app.releases.publish(TASK, "tiny-2").release
        view = fleet.ended(fleet.app.rollouts.create(TASK, patched, Target(vehicles=(van,)), FAST))
        assert (view.state, fleet.running()[van]) == ("succeeded", "tiny-2")
        assert "onnx-int8.onnx: made of " in (tmp_path / f"{van}.log").read_text()

        secret = tiny_bundle(tmp_path / "tiny-3", "tiny-3", seed=3)
        fleet.app.models.register(secret.directory)
        sealed = fleet.app.releases.publish(TASK, "tiny-3", sealed=True).release
        view = fleet.ended(fleet.app.rollouts.create(TASK, sealed, Target(vehicles=(van,)), FAST))
        assert (view.state, view.reason, fleet.running()[van]) == ("succeeded", "", "tiny-3")
    weights = secret.path(secret.manifest.variants[0].file).read_bytes()
    on_board = b"".join(path.read_bytes() for path in (tmp_path / van).rglob("*") if path.is_file())
    assert not any(weights[at : at + 16] in on_board for at in range(2000, len(weights) - 2000, 97))


@pytest.mark.slow
def test_a_release_comes_by_https_and_the_next_by_mqtt_where_the_file_server_is_gone(tmp_path: Path) -> None:
    fleet, van = Fleet(tmp_path), VEHICLES[0]
    with ExitStack() as stack:
        for process in (fleet.broker(), fleet.fleet_process(), fleet.agent(van)):
            stack.enter_context(process)
        wait_until("it reports", lambda: fleet.running()[van] == "tiny-1", timeout_s=60)
        with fleet.file_server():
            wait_until("it listens", lambda: "serving files" in (tmp_path / "files.log").read_text())
            second = fleet.release("tiny-2", seed=2)
            view = fleet.ended(fleet.app.rollouts.create(TASK, second, Target(vehicles=(van,)), BY_HTTPS))
            assert (view.state, fleet.running()[van]) == ("succeeded", "tiny-2")
            wait_until("the status says so", lambda: fleet.files(van).get("https_files", 0) > 0)
            assert fleet.files(van)["https_failures"] == fleet.files(van)["mqtt_files"] == 0
            assert f"{van} targets/{TASK}/{second}/" in (tmp_path / "files.log").read_text()
        third = fleet.release("tiny-3", seed=3)
        view = fleet.ended(fleet.app.rollouts.create(TASK, third, Target(vehicles=(van,)), BY_HTTPS))
        assert (view.state, fleet.running()[van]) == ("succeeded", "tiny-3")
        wait_until("the status says so", lambda: fleet.files(van)["https_failures"] == 1)
        assert "HTTPS fails, MQTT goes on" in (tmp_path / f"{van}.log").read_text()
