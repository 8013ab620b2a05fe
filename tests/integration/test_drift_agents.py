"""A real agent sketches what it decides and sends it through a real broker; killed, it repeats nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select

from roadloop_cloud.app import Application
from roadloop_cloud.config import CONFIG_NAME, BrokerConfig, Config
from roadloop_cloud.founding import found_workspace
from roadloop_cloud.identity.provisioning import load_profile
from roadloop_cloud.store.drift_tables import SketchRow
from roadloop_cloud.store.ingest_tables import LedgerStream, Rejected
from roadloop_cloud.training.reference import with_reference
from roadloop_cloud.training.spec import DataSource
from roadloop_cloud.workspace import Workspace
from roadloop_models.contract import channels
from roadloop_models.contract.codec import decode
from roadloop_models.contract.messages import Sketch
from roadloop_models.tasks import get_task
from tests.fakes.bundles import tiny_bundle
from tests.fakes.live_cloud import LiveCloud, free_port, wait_until
from tests.fakes.profiles import sign_profile

PERIOD_S = 2.0
ROOT = Path(__file__).resolve().parents[2]
PROFILE = sign_profile(20.0)


class Watched(LiveCloud):
    """A workspace whose release has a reference, made of drawn signs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        get_task("traffic-sign").write_made_data(directory / "data", seed=1)
        plain = tiny_bundle(directory / "plain")
        bundle = with_reference(plain, DataSource(str(directory / "data")), directory / "bundle")
        config = Config(broker=BrokerConfig(port=free_port()))
        found_workspace(directory / "fleet", config, {"traffic-sign": bundle.directory}, lambda _text, _done: None)
        with (directory / "fleet" / CONFIG_NAME).open("a") as file:
            file.write(f"\n[drift]\nlook_s = {PERIOD_S}\nwindow_looks = 100\n")
        self.app = Application(Workspace.open(directory / "fleet"))
        (directory / "drives.toml").write_text(PROFILE)
        self.app.vehicles.add("car-1", load_profile(str(directory / "drives.toml")), directory / "car-1")
        vehicle = directory / "car-1" / "vehicle.toml"
        vehicle.write_text(vehicle.read_text().replace("[telemetry]", f"[telemetry]\nsketch_period_s = {PERIOD_S}"))

    def sketches(self) -> list[Sketch]:
        with self.app.database.reading() as session:
            rows = session.scalars(select(SketchRow).order_by(SketchRow.boot, SketchRow.seq)).all()
        return [decode(channels.SKETCH, row.payload, Sketch) for row in rows]

    @contextmanager
    def agent(self) -> Iterator[subprocess.Popen[bytes]]:
        run = "from roadloop_agent.cli import main; main()"
        environment = {**os.environ, "PYTHONPATH": ":".join(str(ROOT / part) for part in ("models", "agent"))}
        command = [sys.executable, "-c", run, "run", "--config", str(self.directory / "car-1" / "vehicle.toml")]
        with (self.directory / "agent.log").open("ab") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            assert process.wait(timeout=20) == 0, (self.directory / "agent.log").read_text()


def children(pid: int) -> dict[str, int]:
    """Name of the agent's process -> its id."""
    found: dict[str, int] = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        command = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
        found |= {name: int(child) for name in ("drive", "link") if name in command}
    return found


@pytest.mark.slow
def test_what_a_real_agent_decides_is_seen_as_distributions(tmp_path: Path) -> None:
    cloud = Watched(tmp_path)
    with cloud.broker(), cloud.ingest(), cloud.agent() as agent:
        wait_until("two sketches have come", lambda: len(cloud.sketches()) >= 2, timeout_s=60)
        sketch = cloud.sketches()[1]
        assert sketch.slot == "sign"
        assert 10 <= sketch.decisions <= 200
        by_name = {one.name: one for one in sketch.signals}
        assert sum(by_name["brightness"].counts) == by_name["brightness"].rows == sketch.decisions
        os.kill(children(agent.pid)["link"], signal.SIGKILL)
        count = len(cloud.sketches())
        wait_until("sketches come after link was killed", lambda: len(cloud.sketches()) >= count + 2, timeout_s=60)
        time.sleep(PERIOD_S)  # a look ends with a whole period
        look = cloud.app.drift.look()
    assert {finding.signal for finding in look.findings} >= {"brightness", "contrast", "confidence"}
    assert all(finding.vehicles == 1 for finding in look.findings)
    sent = cloud.sketches()
    assert [one.seq for one in sent] == list(range(1, len(sent) + 1))
    assert all(one.from_ms <= one.to_ms for one in sent)
    decisions = sum(one.decisions for one in sent)
    with cloud.app.database.reading() as session:
        assert session.scalars(select(Rejected)).all() == []
        decided = session.scalar(select(LedgerStream.highest_seq).where(LedgerStream.stream == "sign-decision"))
    assert decided is not None
    assert decisions <= decided + 64  # none counted twice; what is still open is not counted yet
