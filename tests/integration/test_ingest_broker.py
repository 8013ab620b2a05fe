"""Ingest behind a real mosquitto with mutual TLS: once stored whatever is delivered, whoever is killed."""

import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import func, select

from roadloop_cloud.store.ingest_tables import LedgerStream, Rejected
from roadloop_cloud.supervise import ChildSpec, Process, spawn_child
from roadloop_models.contract import channels
from roadloop_models.contract.messages import Command
from tests.fakes.cloud import batch_message, blob_messages, lost_message
from tests.fakes.live_cloud import LiveCloud, WireVehicle, stop, wait_until

KILL_AT_FIRST_ACKNOWLEDGEMENT = """
import os, signal, sys
from pathlib import Path
from roadloop_cloud import mqtt
from roadloop_cloud.app.__main__ import main

def die(self, received):
    os.kill(os.getpid(), signal.SIGKILL)

mqtt.MqttClient.acknowledge = die
main(["ingest", "--workspace", sys.argv[1]])
"""


@pytest.fixture
def cloud(tmp_path: Path) -> LiveCloud:
    return LiveCloud(tmp_path, "van-1", "van-2")


def start_ingest(cloud: LiveCloud, *, number: int = 1, program: str | None = None) -> Process:
    """An ingest process of its own."""
    root = cloud.app.workspace.root
    arguments = ["-m", "roadloop_cloud.app", "ingest", "--number", str(number), "--workspace", str(root)]
    if program is not None:
        arguments = ["-c", program, str(root)]
    log = cloud.app.workspace.run / f"ingest-{number}.log"
    return spawn_child(ChildSpec("ingest", [sys.executable, "-P", *arguments], root, log))


def redelivered(cloud: LiveCloud) -> int:
    with cloud.app.database.reading() as session:
        return session.scalar(select(func.sum(LedgerStream.redelivered))) or 0


def test_what_is_delivered_twice_is_stored_once(cloud: LiveCloud) -> None:
    content = bytes(range(256)) * 300
    with cloud.broker(), cloud.ingest(), cloud.vehicle("van-1") as van:
        batch = batch_message("van-1", 1, 100)
        van.publish(*batch)
        van.publish(*batch)
        van.send([batch, lost_message("van-1", 101, 110)], lambda: van.covers(110))
        van.send(blob_messages("van-1", content), lambda: van.covers(2, stream="blob"))
        wait_until("the second delivery is told apart", lambda: redelivered(cloud) >= 1)
    totals = cloud.app.telemetry.totals()
    assert (totals.produced, totals.stored, totals.duplicates, totals.lost) == (110, 100, 0, 10)
    assert [path.read_bytes() for path in cloud.app.workspace.blobs.rglob("*") if path.is_file()] == [content]


def test_killed_between_commit_and_acknowledgement_the_batch_comes_again(cloud: LiveCloud) -> None:
    with cloud.broker(), cloud.vehicle("van-1") as van:
        doomed = start_ingest(cloud, program=KILL_AT_FIRST_ACKNOWLEDGEMENT)
        sending = threading.Thread(target=van.send, args=([batch_message("van-1", 1, 100)], lambda: van.covers(100)))
        sending.start()
        assert doomed.wait(timeout=30) == -signal.SIGKILL
        assert cloud.app.telemetry.totals().stored == 100
        assert not van.covers(100)
        with cloud.ingest(announce_all=False) as service:
            sending.join(30)
            assert van.covers(100)
            wait_until("the message came again", lambda: service.counters.messages >= 1)
    totals = cloud.app.telemetry.totals()
    assert (totals.stored, totals.duplicates) == (100, 0)
    assert totals.redelivered >= 1


@pytest.mark.slow
def test_killed_at_random_moments_every_sample_is_stored_exactly_once(cloud: LiveCloud) -> None:
    chance = random.Random(5)
    batches = [batch_message("van-1", first, first + 9) for first in range(1, 20_001, 10)]
    with cloud.broker(), cloud.vehicle("van-1") as van:
        process = start_ingest(cloud)
        kills = 0

        def stored() -> int:
            with cloud.app.database.reading() as session:
                return session.scalar(select(func.sum(LedgerStream.stored))) or 0

        sending = threading.Thread(target=van.send, args=(batches, lambda: van.covers(20_000), 120))
        sending.start()
        for _ in range(8):
            target = stored() + chance.randrange(1, 1500)
            wait_until("some more is stored", lambda target=target: stored() >= min(target, 20_000))  # type: ignore[misc]
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            process = start_ingest(cloud)
        sending.join(120)
        assert van.covers(20_000)
        stop(process)
    totals = cloud.app.telemetry.totals()
    assert kills == 8
    assert (totals.produced, totals.stored, totals.duplicates, totals.lost) == (20_000, 20_000, 0, 0)


def test_two_ingest_processes_share_the_work_and_one_may_die(cloud: LiveCloud) -> None:
    batches = [batch_message("van-1", first, first + 9) for first in range(1, 2001, 10)]
    others = [batch_message("van-2", first, first + 9) for first in range(1, 1001, 10)]
    cloud.app.authority.ensure_client(
        "cloud-ingest-2",
        cloud.app.workspace.identity("cloud-ingest-2").certificate,
        cloud.app.workspace.identity("cloud-ingest-2").key,
    )
    with cloud.broker(), cloud.vehicle("van-1") as van, cloud.vehicle("van-2") as other, cloud.ingest(1) as first:
        with cloud.ingest(2) as second:
            van.send(batches[:100], lambda: van.covers(1000))
            assert first.counters.messages
            assert second.counters.messages
        van.send(batches[100:], lambda: van.covers(2000))
        other.send(others, lambda: other.covers(1000))
    totals = cloud.app.telemetry.totals()
    assert (totals.stored, totals.duplicates, totals.missing) == (3000, 0, 0)


def test_a_broker_that_forgets_everything_costs_nothing(cloud: LiveCloud) -> None:
    broker = cloud.start_broker()
    with cloud.ingest(), cloud.vehicle("van-1") as van:
        van.send([batch_message("van-1", 1, 10)], lambda: van.covers(10))
        broker.send_signal(signal.SIGKILL)
        broker.wait()
        for saved in cloud.app.workspace.broker.glob("*.db*"):
            saved.unlink()
        wait_until("the vehicle notices", lambda: not van.connected.is_set())
        broker = cloud.start_broker()
        van.send([batch_message("van-1", 11, 20)], lambda: van.covers(20))
        with cloud.vehicle("van-1"):
            pass
    stop(broker)
    assert cloud.app.telemetry.totals().stored == 20


def test_after_the_broker_lost_its_retained_messages_a_restarted_ingest_says_them_again(cloud: LiveCloud) -> None:
    with cloud.broker() as broker, cloud.ingest(), cloud.vehicle("van-1") as van:
        van.send([batch_message("van-1", 1, 10)], lambda: van.covers(10))
        broker.send_signal(signal.SIGKILL)
        broker.wait()
        for saved in cloud.app.workspace.broker.glob("*.db*"):
            saved.unlink()
    with cloud.broker(), cloud.vehicle("van-1") as late:
        assert not late.covers(10)
        with cloud.ingest():
            wait_until("the cursor is announced", lambda: late.covers(10))


def test_malformed_and_oversize_messages_stop_nobody(cloud: LiveCloud) -> None:
    topic, payload = batch_message("van-1", 1, 10)
    with cloud.broker(), cloud.ingest() as service, cloud.vehicle("van-1") as van:
        van.publish(topic, b"\xc1")
        van.publish(topic, payload[:20])
        van.publish(channels.LOST.topic("van-1"), b"{")
        van.client.publish(topic, b"\x00" * (2 * channels.MAX_MESSAGE_BYTES), qos=1)
        wait_until("the oversize message costs the vehicle its connection", lambda: not van.connected.is_set())
        # A vehicle without paho's trap: the oversize message would be sent on every connection again.
        with cloud.vehicle("van-2") as other:
            other.send([batch_message("van-2", 1, 10)], lambda: other.covers(10))
        wait_until("three are refused", lambda: service.counters.rejected == 3)
    with cloud.app.database.reading() as session:
        assert {row.code for row in session.scalars(select(Rejected))} == {"message-invalid"}


def test_a_vehicle_can_neither_read_nor_write_what_is_anothers(cloud: LiveCloud, tmp_path: Path) -> None:
    spy = cloud.identity("van-2")
    options = ["-h", "127.0.0.1", "-p", str(cloud.app.workspace.config.broker.port), "-V", "5", "-i", "van-1"]
    options += ["--cafile", str(spy.ca), "--cert", str(spy.certificate), "--key", str(spy.key)]

    def forge(topic: str, payload: bytes) -> None:
        subprocess.run(["mosquitto_pub", *options, "-t", topic, "-s", "-q", "1"], input=payload, check=True)

    heard, fleet = tmp_path / "heard", cloud.mqtt_client("cloud-fleet")
    with cloud.broker(), cloud.ingest(), cloud.vehicle("van-1") as van:
        forge(*batch_message("van-1", 1, 5))
        forge(channels.CURSOR.topic("van-1"), b"{}")
        forge(*batch_message("van-2", 1, 10))
        wait_until("the spy's own batch is stored", lambda: cloud.app.telemetry.totals().stored == 10)
        assert van.connected.is_set()  # the spy asked for its client id, and did not get it
        filters = ("roadloop/#", "$share/ingest/roadloop/v1/+/up/t/+", "$SYS/#")
        with heard.open("wb") as file:
            listening = subprocess.Popen(
                ["mosquitto_sub", *options, "-v", *(part for pattern in filters for part in ("-t", pattern))],
                stdout=file,
            )
        try:
            wait_until("the spy hears its own cursor", lambda: b"van-2/down/cursor" in heard.read_bytes())
            van.send([batch_message("van-1", 1, 50)], lambda: van.covers(50))
            fleet.start()
            wait_until("the fleet service is connected", lambda: fleet.connected)
            for vehicle in ("van-1", "van-2"):  # what the spy may hear comes after what it may not
                fleet.publish(channels.COMMAND, vehicle, Command(id="1", kind="ping"))
            wait_until("the spy hears its own command", lambda: b"van-2/down/cmd" in heard.read_bytes())
        finally:
            fleet.stop()
            listening.terminate()
            listening.wait()
        assert not [payload for _, payload in van.heard if payload == b"{}"]
    assert b"van-1" not in heard.read_bytes()
    accounts = {account.vehicle: account.stored for account in cloud.app.telemetry.gaps()}
    assert accounts == {"van-1": 50, "van-2": 10}


def test_certificates_of_another_authority_and_revoked_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    ours, theirs = LiveCloud(tmp_path / "ours", "van-1", "van-2"), LiveCloud(tmp_path / "theirs", "van-1")
    foreign = theirs.identity("van-1")
    port = ours.app.workspace.config.broker.port
    ours.app.authority.revoke(ours.identity("van-2").certificate)
    with ours.broker():
        for certificate, key in (
            (foreign.certificate, foreign.key),
            (ours.identity("van-2").certificate, ours.identity("van-2").key),
        ):
            identity = type(foreign)(ours.identity("van-1").ca, certificate, key)
            van = WireVehicle("van-1", port, identity)
            with pytest.raises(AssertionError, match="is not connected"):
                _start_briefly(van)
        with ours.vehicle("van-1") as good:
            assert good.connected.is_set()
        with pytest.raises(OSError, match=r"certificate|CERTIFICATE"):  # and a vehicle refuses another's broker
            _handshake(type(foreign)(foreign.ca, ours.identity("van-1").certificate, ours.identity("van-1").key), port)


def _start_briefly(van: WireVehicle) -> None:
    van.client.connect_timeout = 2.0
    van._filters = []
    try:
        van.client.connect_async("127.0.0.1", van._port)
        van.client.loop_start()
        assert van.connected.wait(3.0), "the vehicle is not connected"
    finally:
        van.stop()


def _handshake(identity: object, port: int) -> None:
    import socket

    from roadloop_cloud.mqtt import tls_context
    from roadloop_cloud.workspace import IdentityFiles

    assert isinstance(identity, IdentityFiles)
    with socket.create_connection(("127.0.0.1", port)) as raw:
        tls_context(identity).wrap_socket(raw, server_hostname="127.0.0.1")
