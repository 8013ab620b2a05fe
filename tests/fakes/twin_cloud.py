"""The whole service in its own processes on a real workspace, and fleets of digital twins that talk to it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select

from roadloop_cloud.identity.provisioning import load_profile
from roadloop_cloud.rollout.service import RolloutView
from roadloop_cloud.service import child_specs
from roadloop_cloud.store.ingest_tables import LedgerStream, Vehicle
from roadloop_cloud.supervise import Process, spawn_child
from tests.fakes.bundles import tiny_bundle
from tests.fakes.live_cloud import WAIT_S, LiveCloud, stop, wait_until
from tests.fakes.profiles import sign_profile

TASK = "traffic-sign"
ROOT = Path(__file__).resolve().parents[2]
Key = tuple[str, int, str]


def memory_folder(fallback: Path) -> Path:
    """A folder in memory where there is one: it stands for the disks of thousands of vehicles."""
    shared = Path("/dev/shm")
    return shared if os.access(shared, os.W_OK) else fallback


class TwinCloud(LiveCloud):
    """A workspace whose processes are started, killed and measured one by one."""

    def __init__(self, directory: Path, twins: Path) -> None:
        """`twins`: where the folders of the twins are written."""
        super().__init__(directory)
        self.twins = twins
        self._processes: dict[str, Process] = {}

    def add_twins(self, prefix: str, count: int, hardware: str) -> None:
        """Provision twins of that hardware."""
        profile = self.directory / f"{hardware}.toml"
        profile.write_text(sign_profile(10.0, hardware=hardware), encoding="utf-8")
        self.app.vehicles.add_many(prefix, count, load_profile(str(profile)), self.twins)

    def release(self, version: str, seed: int) -> int:
        """Publish a release of the task; its number."""
        self.app.models.register(tiny_bundle(self.directory / version, version, seed=seed).directory)
        return self.app.releases.publish(TASK, version).release

    # Processes of the service.

    def start(self, *names: str) -> None:
        """Start processes of the service: `fleet`, `ingest`, `jobs`; `broker` is started like the others."""
        specs = {
            spec.name: spec
            for spec in child_specs(self.app.workspace, {"fleet": 1, "ingest": 1, "jobs": 1}, broker=True)
        }
        for name in names:
            self._processes[name] = spawn_child(specs[name])
            if name == "broker":
                wait_until("the broker listens", self.broker_listens)

    def kill(self, *names: str) -> None:
        """SIGKILL."""
        for name in names:
            process = self._processes.pop(name)
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=10)

    def end(self, *names: str) -> None:
        """A clean end."""
        for name in names:
            stop(self._processes.pop(name))

    def cpu_s(self) -> dict[str, float]:
        """Processor seconds, by process."""
        ticks = os.sysconf("SC_CLK_TCK")
        found = {}
        for name, process in self._processes.items():
            fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
            found[name] = (int(fields[11]) + int(fields[12])) / ticks
        return found

    @contextmanager
    def service(self) -> Iterator["TwinCloud"]:
        """Broker, ingest and fleet process for the block, whatever of them is killed and started within."""
        with ExitStack() as stack:
            stack.callback(lambda: self.end(*reversed(self._processes)))
            self.start("broker", "ingest", "fleet")
            yield self

    # What is known.

    def reported(self) -> dict[str, str | None]:
        """Vehicle -> version that it says it runs."""
        with self.app.database.reading() as session:
            rows = session.execute(select(Vehicle.id, Vehicle.reported)).all()
        return {vehicle: _version(reported) for vehicle, reported in rows}

    def running(self) -> Counter[str | None]:
        """How many run which version."""
        return Counter(self.reported().values())

    def heard_since(self, moment: datetime) -> int:
        """How many have said something since then."""
        with self.app.database.reading() as session:
            return sum(seen is not None and seen >= moment for seen in session.scalars(select(Vehicle.last_seen)))

    def online(self) -> int:
        """How many are online."""
        with self.app.database.reading() as session:
            return sum(session.scalars(select(Vehicle.online)).all())

    def accounted(self) -> dict[Key, int]:
        """Samples that are stored, by vehicle, boot and stream."""
        with self.app.database.reading() as session:
            return {(row.vehicle, row.boot, row.stream): row.stored for row in session.scalars(select(LedgerStream))}

    def ended(self, rollout: int, timeout_s: float, *, look_s: float = 0.1) -> RolloutView:
        """The rollout when it runs no more."""

        def ended() -> bool:
            return self.app.rollouts.show(rollout).state != "running"

        wait_until("the rollout ends", ended, timeout_s, look_s=look_s)
        return self.app.rollouts.show(rollout)


def _version(reported: Mapping[str, Any] | None) -> str | None:
    slot = (reported or {}).get("slots", {}).get("sign", {})
    version: str | None = (slot.get("running") or {}).get("version")
    return version


class Twins:
    """`roadloop-agent sim` in a process of its own; ended by `finish`, which gives the account of all twins."""

    def __init__(self, cloud: TwinCloud, scenario: str = "", *, processes: int = 1, drain_s: float = WAIT_S) -> None:
        self._account = cloud.directory / "account.json"
        self._account.unlink(missing_ok=True)
        path = cloud.directory / "scenario.toml"
        path.write_text(scenario, encoding="utf-8")
        self._drain_s = drain_s
        self._log = cloud.directory / "twins.log"
        command = [*(sys.executable, "-c", "from roadloop_agent.cli import main; main()", "sim")]
        command += ["--fleet", str(cloud.twins), "--scenario", str(path), "--processes", str(processes)]
        command += ["--drain", str(drain_s), "--account", str(self._account)]
        environment = {**os.environ, "PYTHONPATH": ":".join(str(ROOT / part) for part in ("models", "agent", "cloud"))}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def finish(self) -> dict[str, Any]:
        """Let them send what they have; what they say of themselves."""
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(self._drain_s + WAIT_S) == 0, self._log.read_text(encoding="utf-8")
        account: dict[str, Any] = json.loads(self._account.read_text(encoding="utf-8"))
        assert account["status"]["faults"] == 0, self._log.read_text(encoding="utf-8")[-4000:]
        return account

    def __enter__(self) -> "Twins":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(self._drain_s + WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def missing_samples(cloud: TwinCloud, account: Mapping[str, Any]) -> int:
    """Samples that twins have numbered and the ledger has not stored."""
    stored = cloud.accounted()
    return sum(
        max(0, last - stored.get((twin["vehicle"], boot, stream), 0))
        for twin in account["twins"]
        for boot, stream, last in twin["produced"]
    )


def produced_samples(account: Mapping[str, Any]) -> int:
    """Samples that twins have numbered."""
    return sum(last for twin in account["twins"] for _, _, last in twin["produced"])


def elapsed_s(since_s: float) -> float:
    """Monotonic seconds since then."""
    return time.monotonic() - since_s
