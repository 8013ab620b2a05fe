"""A fleet that replays the week of losloop in time order, through real agents and a real broker, to a real service.

Time runs quickly: STEPS_PER_S five-minute steps a second, so that an hour of data is HOUR_S seconds of the clock. What
the service counts in hours (periods of sketches, looks for drift) is set to that. After the last row a vehicle begins
again with the first: on trial a release has to decide something.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sqlalchemy import func, select

from roadloop_cloud.app import Application
from roadloop_cloud.config import BrokerConfig, Config, RolloutConfig
from roadloop_cloud.founding import found_workspace
from roadloop_cloud.identity.provisioning import load_profile
from roadloop_cloud.store.ingest_tables import LedgerStream
from roadloop_cloud.workspace import Workspace
from roadloop_models.tasks.speed_data import FOLDER, SPEED_FILE, SpeedRows, write_speeds
from tests.fakes.live_cloud import free_port

TASK = "traffic-speed"
VEHICLES = {"van-1": "onnx", "van-2": "tflite"}
STEPS_PER_S = 2.0
STEPS_PER_HOUR = 12
HOUR_S = STEPS_PER_HOUR / STEPS_PER_S
DAY_S = 24 * HOUR_S
_BIN = Path(sys.executable).parent
_STOP_S = 20.0
START_S = 120.0
"""How long a loaded machine may take to start a vehicle."""


class World:
    """A workspace with one release, its service, and its vehicles."""

    def __init__(self, directory: Path, rows: SpeedRows, release: Path) -> None:
        """`rows`: what the vehicles see first. `release`: the bundle that they start with; it has a reference."""
        self.directory = directory
        config = Config(
            broker=BrokerConfig(port=free_port()), rollout=RolloutConfig(soak_s=1.0, health_window_s=2 * HOUR_S)
        )
        root = directory / "fleet"
        found_workspace(root, config, {TASK: release}, lambda _text, _done: None)
        with (root / "roadloop.toml").open("a") as file:
            file.write(f"\n[drift]\nlook_s = {HOUR_S}\n")
        self.app = Application(Workspace.open(root))
        write_speeds(directory / "rows", rows)
        for vehicle, runtime in VEHICLES.items():
            profile = directory / f"{vehicle}.toml"
            profile.write_text(_profile(runtime, directory / "rows" / FOLDER / SPEED_FILE))
            self.app.vehicles.add(vehicle, load_profile(str(profile)), directory / vehicle)
            settings = directory / vehicle / "vehicle.toml"
            text = settings.read_text()
            assert text.count("\n[telemetry]\n") == 1
            settings.write_text(text.replace("[telemetry]\n", f"[telemetry]\nsketch_period_s = {HOUR_S}\n"))

    def replay(self, name: str, rows: SpeedRows) -> None:
        """What the vehicles see from their next start on."""
        write_speeds(self.directory / name, rows)
        for vehicle, runtime in VEHICLES.items():
            profile = self.directory / vehicle / "profile.toml"
            profile.write_text(_profile(runtime, self.directory / name / FOLDER / SPEED_FILE))

    @contextmanager
    def service(self) -> Iterator[None]:
        """Broker, ingest, fleet and jobs, as `roadloop up` starts them."""
        with self._process("up", "roadloop", "up", "--broker", "--workspace", str(self.app.workspace.root)):
            yield

    @contextmanager
    def driving(self) -> Iterator[None]:
        """All vehicles drive."""
        before = self.received_bytes()
        with ExitStack() as running:
            for vehicle in VEHICLES:
                config = self.directory / vehicle / "vehicle.toml"
                running.enter_context(self._process(vehicle, "roadloop-agent", "run", "--config", str(config)))
            if not wait_for("telemetry", lambda: self.received_bytes() > before, START_S):
                raise AssertionError(f"no telemetry within {START_S:g} s; {self._said()}")
            yield

    def received_bytes(self) -> int:
        """Messages of telemetry, on the wire, that the cloud has stored."""
        with self.app.database.reading() as session:
            return int(session.scalar(select(func.coalesce(func.sum(LedgerStream.stored_bytes), 0))) or 0)

    @contextmanager
    def _process(self, name: str, program: str, *arguments: str) -> Iterator[None]:
        with (self.directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [str(_BIN / program), *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            yield
            assert process.poll() is None, f"{name} has ended; {self._said()}"
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
            process.kill()
            process.wait()

    def _said(self) -> str:
        """The ends of all logs."""
        return "\n".join(f"{path.name}: {path.read_text()[-500:]}" for path in sorted(self.directory.glob("*.log")))


def wait_for(what: str, reached: Callable[[], bool], timeout_s: float, every_s: float = 0.5) -> bool:
    """Whether it came about in time."""
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        if reached():
            return True
        time.sleep(every_s)
    return reached()


def _profile(runtime: str, speeds: Path) -> str:
    return f"""\
hardware = "x86-64, {runtime}"

[sources.loops]
kind = "speeds-csv"
pace = "as-consumed"
loop = true
path = "{speeds}"
rate_hz = {STEPS_PER_S}

[slots.speed]
task = "{TASK}"
runtime = "{runtime}"
precision = "int8"
source = "loops"
rate_hz = {STEPS_PER_S}
"""
