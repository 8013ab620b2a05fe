"""The fleet process on a real broker with mutual TLS: what outlives a broker that is killed, and who hears what."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from roadloop_cloud.fleet import desired
from roadloop_cloud.fleet.blocks import EMPTY_SHA256, BlockServer
from roadloop_cloud.fleet.director_files import DirectorFiles
from roadloop_cloud.fleet.files import RepositoryFiles
from roadloop_cloud.fleet.service import FleetService, pace_of
from roadloop_cloud.store.ingest_tables import Vehicle
from roadloop_models.contract import channels
from roadloop_models.contract.codec import decode, encode
from roadloop_models.contract.messages import Desired, FetchRequest, FileBlock, Policy, ReleaseRef, Status
from tests.fakes.live_cloud import WAIT_S, LiveCloud, WireVehicle, stop, wait_until

DOWN = "roadloop/v1/{}/down/#"


@pytest.fixture
def cloud(tmp_path: Path) -> LiveCloud:
    return LiveCloud(tmp_path, "van-1", "van-2")


@contextmanager
def fleet_service(cloud: LiveCloud) -> Iterator[None]:
    """The fleet service in a thread of this process."""
    app = cloud.app
    client = cloud.mqtt_client("cloud-fleet")
    blocks = BlockServer(
        DirectorFiles(app.directors, RepositoryFiles(app.workspace.repository)), pace_of(app.database, 1 << 30)
    )
    service = FleetService(
        client, app.database, app.rollouts, blocks, app.releases.renew_online, director=app.directors
    )
    ending = threading.Event()
    thread = threading.Thread(target=service.run, args=(ending,))
    client.start()
    thread.start()
    try:
        wait_until("the fleet service is connected", lambda: client.connected)
        yield
    finally:
        ending.set()
        thread.join(WAIT_S)
        client.stop()


@contextmanager
def vehicle(cloud: LiveCloud, name: str, *filters: str) -> Iterator[WireVehicle]:
    wire = WireVehicle(name, cloud.app.workspace.config.broker.port, cloud.identity(name))
    wire.start([DOWN.format(name), *filters])
    try:
        yield wire
    finally:
        wire.stop()


def wish(cloud: LiveCloud, name: str, release: int) -> None:
    ref = ReleaseRef(task="traffic-sign", release=release, version="v", manifest_sha256="a" * 64)
    with cloud.app.database.transaction() as session:
        desired.assign(session, session.get_one(Vehicle, name), {"sign": ref}, Policy())


def wished(wire: WireVehicle, name: str) -> int | None:
    """The release of the newest desired state that was heard."""
    topic = channels.DESIRED.topic(name)
    heard = [decode(channels.DESIRED, payload, Desired) for got, payload in wire.heard if got == topic]
    return max(heard, key=lambda state: state.version).slots["sign"].release if heard else None


def test_a_desired_state_survives_a_broker_that_lost_everything(cloud: LiveCloud) -> None:
    broker = cloud.start_broker()
    try:
        with fleet_service(cloud):
            wish(cloud, "van-1", 7)
            with vehicle(cloud, "van-1") as wire:
                wait_until("van-1 hears its wish", lambda: wished(wire, "van-1") == 7)
            broker.send_signal(9)
            broker.wait(timeout=10)
            for file in cloud.app.workspace.broker.glob("*.db"):
                file.unlink()
            broker = cloud.start_broker()
            with vehicle(cloud, "van-1") as wire:
                wait_until("van-1 hears it again", lambda: wished(wire, "van-1") == 7)
                wish(cloud, "van-1", 8)
                wait_until("and what is new", lambda: wished(wire, "van-1") == 8)
    finally:
        stop(broker)


def test_status_reaches_the_table(cloud: LiveCloud) -> None:
    with cloud.broker(), fleet_service(cloud), vehicle(cloud, "van-2") as wire:
        status = Status(online=True, session="s1", agent_version="0.1.0", hardware="test")
        wire.publish(channels.STATUS.topic("van-2"), encode(channels.STATUS, status))
        wait_until("van-2 is online", lambda: cloud.app.vehicles.get("van-2").online)
        gone = Status(online=False, session="s1")
        wire.publish(channels.STATUS.topic("van-2"), encode(channels.STATUS, gone))
        wait_until("van-2 is offline", lambda: not cloud.app.vehicles.get("van-2").online)


def test_blocks_reach_only_who_asked_and_nothing_leaves_the_repository(cloud: LiveCloud) -> None:
    with cloud.broker(), fleet_service(cloud), vehicle(cloud, "van-1", DOWN.format("van-2")) as spy:
        with vehicle(cloud, "van-2") as wire:
            for path in ("metadata/timestamp.json", "metadata/../../keys/online/timestamp.pem"):
                request = FetchRequest(path=path, blocks=((0, 7),))
                wire.publish(channels.FETCH.topic("van-2"), encode(channels.FETCH, request))
            prefix = "roadloop/v1/van-2/down/file/"
            wait_until("both are answered", lambda: sum(topic.startswith(prefix) for topic, _ in wire.heard) == 2)
            answers = {
                block.path: (topic, block)
                for topic, payload in wire.heard
                if topic.startswith(prefix) and (block := decode(channels.FILE, payload, FileBlock))
            }
        topic, missing = answers["metadata/../../keys/online/timestamp.pem"]
        assert (missing.missing, missing.data, topic) == (True, b"", f"{prefix}{EMPTY_SHA256}/0")
        expected = (cloud.app.workspace.repository / "metadata" / "timestamp.json").read_bytes()
        assert answers["metadata/timestamp.json"][1].data == expected
        assert not [topic for topic, _ in spy.heard if "van-2" in topic]
