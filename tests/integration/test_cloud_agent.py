"""The two halves together: the folder that `vehicles add` writes, the real agent, the real broker, the real ingest."""

import signal
import subprocess
import sys
from pathlib import Path

from roadloop_cloud.identity.provisioning import load_profile
from tests.fakes.live_cloud import LiveCloud, wait_until
from tests.fakes.profiles import sign_profile

PROFILE = f"""{sign_profile(50.0)}
[slots.sign.capture]
below_confidence = 0.9
every = 20
max_bytes_per_s = 65536
"""
AGENT = [sys.executable, "-P", "-c", "from roadloop_agent.cli import main; main()"]


def provisioned(directory: Path) -> tuple[LiveCloud, Path]:
    """A cloud with one vehicle that has a profile of its own."""
    cloud = LiveCloud(directory)
    profile = directory / "camera.toml"
    profile.write_text(PROFILE)
    cloud.app.vehicles.add("van-1", load_profile(str(profile)), directory / "van-1")
    return cloud, directory / "van-1" / "vehicle.toml"


def test_the_agent_finds_its_provisioning_complete(tmp_path: Path) -> None:
    _, config = provisioned(tmp_path)
    subprocess.run([*AGENT, "validate", "--config", str(config)], check=True, timeout=60)


def test_what_the_agent_produces_is_stored_and_accounted_for(tmp_path: Path) -> None:
    cloud, config = provisioned(tmp_path)
    telemetry = cloud.app.telemetry
    with cloud.broker(), cloud.ingest():
        log = (tmp_path / "agent.log").open("wb")
        agent = subprocess.Popen([*AGENT, "run", "--config", str(config)], stderr=log, stdout=log)
        try:
            wait_until("some hundred decisions are stored", lambda: telemetry.totals().stored > 300, timeout_s=90)
            wait_until(
                "a captured image is whole", lambda: any(map(Path.is_file, cloud.app.workspace.blobs.rglob("*")))
            )
        finally:
            agent.send_signal(signal.SIGTERM)
            agent.wait(timeout=30)
            log.close()
    totals = telemetry.totals()
    assert (totals.duplicates, totals.lost) == (0, 0), (tmp_path / "agent.log").read_text()
    assert "sign-decision" in telemetry.streams()
    assert totals.bytes_per_sample < 40
