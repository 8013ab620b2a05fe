"""The fleet process with a broker in memory: reports are stored before they are acknowledged, desired states go out."""

import shutil
from pathlib import Path
from threading import Event

import msgspec
import pytest
from sqlalchemy.exc import OperationalError

from roadloop_cloud.config import RolloutConfig
from roadloop_cloud.fleet import desired, intake
from roadloop_cloud.fleet.blocks import BlockServer
from roadloop_cloud.fleet.director_files import DirectorFiles
from roadloop_cloud.fleet.files import RepositoryFiles
from roadloop_cloud.fleet.service import FILTERS, FleetService, pace_of
from roadloop_cloud.mqtt import Connected, Disconnected
from roadloop_cloud.registry.releases import release_ref
from roadloop_cloud.rollout.service import Rollouts, Settings, Target
from roadloop_cloud.rollout.statements import Operators
from roadloop_cloud.store.ingest_tables import Vehicle
from roadloop_models.contract import channels
from roadloop_models.contract.codec import encode
from roadloop_models.contract.messages import (
    Desired,
    ErrorInfo,
    FetchRequest,
    FileBlock,
    Policy,
    Reported,
    ReportedSlot,
    Status,
)
from tests.fakes.cloud import FakeTransport, add_vehicle
from tests.fakes.opaque_bundles import TASK
from tests.fakes.registry import Registry, published


class Process:
    """A fleet service over a registry with releases 1 and 2, one turn at a time."""

    def __init__(self, root: Path) -> None:
        self.registry = Registry(root)
        self.refs = [release_ref(row) for row in self.registry.releases.list(TASK)]
        self.database = self.registry.database
        self.transport = FakeTransport()
        self.now_s = 100.0
        self.renewals = 0
        self.rollouts = Rollouts(
            self.database,
            self.registry.releases,
            RolloutConfig(soak_s=0.0),
            lambda: self.now_s,
            Operators(root / "operators"),
        )
        self.stop = Event()
        self.service = self.start()

    def start(self) -> FleetService:
        return FleetService(
            self.transport,
            self.database,
            self.rollouts,
            BlockServer(
                DirectorFiles(self.registry.directors, RepositoryFiles(self.registry.root / "repository")),
                pace_of(self.database, 1 << 30),
            ),
            self._renew,
            director=self.registry.directors,
            clock=lambda: self.now_s,
        )

    def _renew(self) -> bool:
        self.renewals += 1
        return False

    def turn(self, seconds: float = 1.0) -> None:
        self.now_s += seconds
        self.service.step(self.stop)

    def report(self, vehicle: str, running: int, desired_version: int = 0, error: ErrorInfo | None = None) -> None:
        slot = ReportedSlot(
            task=TASK,
            running=self.refs[running - 1],
            runtime="onnx",
            precision="int8",
            state="refused" if error else "idle",
            target=self.refs[1] if error else None,
            error=error,
        )
        report = Reported(
            boot=1, agent_version="0.1.0", hardware="pi", desired_version=desired_version, slots={"sign": slot}
        )
        self.transport.deliver(channels.REPORTED.topic(vehicle), encode(channels.REPORTED, report))

    def status(self, vehicle: str, online: bool, session: str) -> None:
        status = Status(online=online, session=session, agent_version="0.1.0", hardware="pi")
        self.transport.deliver(channels.STATUS.topic(vehicle), encode(channels.STATUS, status))

    def row(self, vehicle: str) -> Vehicle:
        with self.database.reading() as session:
            return session.get_one(Vehicle, vehicle)

    def sent(self) -> list[tuple[str, int, int]]:
        """Desired states since the last look: vehicle, version, release."""
        found = [
            (sent.vehicle, sent.message.version, sent.message.slots["sign"].release)
            for sent in self.transport.published
            if isinstance(sent.message, Desired)
        ]
        self.transport.published.clear()
        return found


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: releases 1 and 2, and two vehicles."""
    root = tmp_path_factory.mktemp("fleet")
    registry = Registry(root).create()
    for vehicle in ("car-1", "car-2"):
        add_vehicle(registry.database, vehicle)
    for version in ("v1", "v2"):
        published(registry, root / "made", version)
    registry.database.close()
    return root


@pytest.fixture
def process(tmp_path: Path, workspace: Path) -> Process:
    shutil.copytree(workspace, tmp_path, dirs_exist_ok=True)
    made = Process(tmp_path)
    made.turn()
    return made


def test_it_subscribes_at_each_connection(process: Process) -> None:
    assert process.transport.filters == list(FILTERS)
    process.transport._events += [Disconnected("gone"), Connected(session_present=False)]
    process.turn()
    assert process.transport.filters == list(FILTERS) * 2


def test_reports_are_stored_then_acknowledged(process: Process) -> None:
    process.report("car-1", 1)
    process.status("car-1", True, "s1")
    process.turn()
    row = process.row("car-1")
    assert (row.online, row.session, row.hardware) == (True, "s1", "pi")
    assert row.reported is not None
    assert msgspec.convert(row.reported, Reported).slots["sign"].running == process.refs[0]
    assert process.transport.redeliver() == 0


def test_nothing_is_acknowledged_that_is_not_stored(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    process.report("car-1", 1)
    with monkeypatch.context() as patch:

        def gone(*_: object) -> set[str]:
            raise OperationalError("insert", {}, Exception("database is gone"))

        patch.setattr(intake, "record", gone)
        process.stop.set()  # so that the pause before the next try ends at once
        process.turn()
        assert process.transport.acknowledged == []
    process.stop.clear()
    process.turn()
    assert process.row("car-1").reported is not None
    assert process.transport.acknowledged == [1]


def test_the_last_will_of_an_older_session_is_ignored(process: Process) -> None:
    for online, session in ((True, "s1"), (True, "s2"), (False, "s1")):
        process.status("car-1", online, session)
        process.turn()
    assert process.row("car-1").online
    process.status("car-1", False, "s2")
    process.turn()
    assert not process.row("car-1").online


def test_malformed_and_foreign_messages_are_dropped(process: Process) -> None:
    process.transport.deliver("roadloop/v1/car-1/up/reported", b"{")
    process.transport.deliver("roadloop/v1/car-1/up/status", bytes(10_000))
    process.transport.deliver("elsewhere", b"")
    process.transport.deliver("roadloop/v1/car-1/up/fetch", b"[]")
    process.report("car-9", 1)
    process.report("car-2", 1)
    process.turn()
    assert process.transport.redeliver() == 0
    assert process.row("car-2").reported is not None


def test_a_rollout_goes_out_and_comes_back(process: Process) -> None:
    process.report("car-1", 1)
    process.report("car-2", 1)
    process.turn()
    rollout = process.rollouts.create(TASK, 2, Target(everyone=True), Settings(waves=("1", "100%")))
    process.turn()
    ((first, version, release),) = process.sent()
    assert (version, release) == (1, 2)
    process.report(first, 2, desired_version=1)
    process.turn()
    other = "car-2" if first == "car-1" else "car-1"
    assert process.sent() == [(other, 1, 2)]
    process.report(other, 1, desired_version=1, error=ErrorInfo(code="trust-refused", detail="tampered"))
    process.turn()
    assert sorted(process.sent()) == [("car-1", 2, 1), ("car-2", 2, 1)]
    assert process.rollouts.show(rollout).state == "failed"
    process.turn()
    process.turn()
    assert process.sent() == []


def test_all_desired_states_are_published_again_to_a_new_connection(process: Process) -> None:
    with process.database.transaction() as session:
        desired.assign(session, session.get_one(Vehicle, "car-1"), {"sign": process.refs[0]}, Policy())
    process.turn()
    process.turn()
    assert process.sent() == [("car-1", 1, 1)]
    process.transport._events += [Disconnected("restarted"), Connected(session_present=True)]
    process.turn()
    process.turn()
    assert process.sent() == [("car-1", 1, 1)]


def test_nothing_is_published_while_disconnected(process: Process) -> None:
    process.transport.connected = False
    with process.database.transaction() as session:
        desired.assign(session, session.get_one(Vehicle, "car-1"), {"sign": process.refs[0]}, Policy())
    process.turn()
    assert process.sent() == []
    process.transport.connected = True
    process.turn()
    assert process.sent() == [("car-1", 1, 1)]


def test_files_are_served(process: Process) -> None:
    request = FetchRequest(path="metadata/timestamp.json", blocks=((0, 7),))
    process.transport.deliver(channels.FETCH.topic("car-2"), encode(channels.FETCH, request))
    process.turn()
    (sent,) = process.transport.published
    assert (sent.channel, sent.vehicle) == (channels.FILE, "car-2")
    assert isinstance(sent.message, FileBlock)
    expected = (process.registry.root / "repository" / "metadata" / "timestamp.json").read_bytes()
    assert sent.message.data == expected


def test_the_pace_is_the_policys(process: Process) -> None:
    now_s = [0.0]
    pace = pace_of(process.database, 1_000_000, lambda: now_s[0])
    assert pace("car-1") == 1_000_000
    with process.database.transaction() as session:
        vehicle = session.get_one(Vehicle, "car-1")
        desired.assign(session, vehicle, {"sign": process.refs[0]}, Policy(fetch_bytes_per_s=5_000))
    now_s[0] += 10.0  # it is not asked of the database for every request
    assert pace("car-1") == 5_000


def test_metadata_is_looked_after(process: Process) -> None:
    assert process.renewals == 1
    for _ in range(10):
        process.turn(10.0)
    assert process.renewals == 2
