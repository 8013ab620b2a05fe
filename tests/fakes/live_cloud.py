"""A real workspace with a real broker on a port of the system's choice, and vehicles that speak the bare contract."""

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from roadloop_cloud.app import Application
from roadloop_cloud.broker import broker_arguments, find_mosquitto
from roadloop_cloud.config import BrokerConfig, Config, FilesConfig
from roadloop_cloud.founding import found_workspace
from roadloop_cloud.identity.provisioning import load_profile
from roadloop_cloud.ingest.blobs import BlobFolder
from roadloop_cloud.ingest.service import IngestService
from roadloop_cloud.mqtt import MqttClient, tls_context
from roadloop_cloud.supervise import ChildSpec, Process, spawn_child
from roadloop_cloud.workspace import IdentityFiles, Workspace
from roadloop_models.contract import channels
from roadloop_models.contract.codec import decode
from roadloop_models.contract.messages import Cursor
from tests.fakes.bundles import tiny_bundle

WAIT_S = 30.0


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(what: str, reached: Callable[[], bool], timeout_s: float = WAIT_S, *, look_s: float = 0.02) -> None:
    """Poll until it is so; fail the test, saying what did not come about, when time is up."""
    until_s = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < until_s, f"waited {timeout_s:.0f} s in vain: {what}"
        time.sleep(look_s)


class LiveCloud:
    """A workspace below `directory`, founded as `roadloop init` does, with a tiny bundle as its release 1."""

    def __init__(self, directory: Path, *vehicles: str) -> None:
        self.directory = directory
        config = Config(broker=BrokerConfig(port=free_port()), files=FilesConfig(port=free_port()))
        bundle = tiny_bundle(directory / "bundle")
        found_workspace(directory / "fleet", config, {"traffic-sign": bundle.directory}, lambda _text, _done: None)
        self.app = Application(Workspace.open(directory / "fleet"))
        profile = directory / "profile.toml"
        profile.write_text('hardware = "test"\n[slots.sign]\ntask = "traffic-sign"\n')
        for vehicle in vehicles:
            self.app.vehicles.add(vehicle, load_profile(str(profile)), directory / vehicle)

    def identity(self, vehicle: str) -> IdentityFiles:
        """As the vehicle's folder has it."""
        folder = self.directory / vehicle / "identity"
        return IdentityFiles(folder / "ca.crt", folder / "vehicle.crt", folder / "vehicle.key")

    def start_broker(self) -> Process:
        """Mosquitto with the workspace's configuration, listening."""
        program, workspace = find_mosquitto(), self.app.workspace
        spec = ChildSpec("broker", broker_arguments(program), workspace.root, workspace.run / "broker.log")
        process = spawn_child(spec)
        wait_until("the broker listens", self.broker_listens)
        return process

    def broker_listens(self) -> bool:
        """Whether a connection is accepted."""
        try:
            socket.create_connection(("127.0.0.1", self.app.workspace.config.broker.port), timeout=1).close()
        except OSError:
            return False
        return True

    @contextmanager
    def broker(self) -> Iterator[Process]:
        """A broker for the block."""
        process = self.start_broker()
        try:
            yield process
        finally:
            stop(process)

    @contextmanager
    def ingest(self, number: int = 1, *, announce_all: bool = True) -> Iterator[IngestService]:
        """An ingest service in a thread of this process, connected when the block begins."""
        client = self.app.ingest_client(number)
        service = IngestService(
            client, self.app.database, BlobFolder(self.app.workspace.blobs), announce_all=announce_all
        )
        ending = threading.Event()
        thread = threading.Thread(target=service.run, args=(ending,))
        client.start()
        thread.start()
        try:
            wait_until("ingest is connected", lambda: client.connected)
            yield service
        finally:
            ending.set()
            thread.join(WAIT_S)
            client.stop()

    @contextmanager
    def vehicle(self, vehicle: str) -> Iterator["WireVehicle"]:
        """A connected vehicle."""
        wire = WireVehicle(vehicle, self.app.workspace.config.broker.port, self.identity(vehicle))
        wire.start()
        try:
            yield wire
        finally:
            wire.stop()

    def mqtt_client(self, name: str) -> MqttClient:
        """The production client with a cloud identity."""
        return self.app.mqtt_client(name)


class WireVehicle:
    """Sends messages until the cursor covers them, as the contract asks, and keeps what it hears."""

    def __init__(self, vehicle: str, port: int, identity: IdentityFiles) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.connected = threading.Event()
        self.refused = threading.Event()
        self._vehicle, self._port = vehicle, port
        self._covered: dict[tuple[int, str], set[int]] = {}
        self._changed = threading.Condition()
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id="any", protocol=paho.MQTTv5)
        client.tls_set_context(tls_context(identity))
        client.reconnect_delay_set(min_delay=1, max_delay=1)
        client.max_inflight_messages_set(100)
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        client.on_connect_fail = lambda *_: self.refused.set()
        client.on_disconnect = lambda *_: self.connected.clear()
        self.client = client

    def start(self, filters: Sequence[str] = ()) -> None:
        self._filters = [channels.CURSOR.subscription(self._vehicle), *filters]
        self.client.connect_async("127.0.0.1", self._port)
        self.client.loop_start()
        assert self.connected.wait(WAIT_S), f"{self._vehicle} is not connected"

    def stop(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def publish(self, topic: str, payload: bytes) -> None:
        """Once, and wait for the broker's word."""
        self.client.publish(topic, payload, qos=1).wait_for_publish(WAIT_S)

    def send(
        self, messages: Sequence[tuple[str, bytes]], covered: Callable[[], bool], timeout_s: float = WAIT_S
    ) -> int:
        """Publish all, and again every second, until `covered`. Returns how often it took."""
        until_s, rounds = time.monotonic() + timeout_s, 0
        while not covered():
            assert time.monotonic() < until_s, f"not covered: {self._covered}"
            if self.connected.is_set():
                rounds += 1
                for topic, payload in messages:
                    self.client.publish(topic, payload, qos=1)
            with self._changed:
                self._changed.wait_for(covered, timeout=1.0)
        return rounds

    def covers(self, last_seq: int, boot: int = 1, stream: str = "health") -> bool:
        """Whether the cursors heard so far cover 1..last_seq."""
        return set(range(1, last_seq + 1)) <= self._covered.get((boot, stream), set())

    def _on_connect(self, client: paho.Client, _data: object, _flags: object, code: object, _more: object) -> None:
        if getattr(code, "is_failure", False):
            self.refused.set()
            return
        for pattern in self._filters:
            client.subscribe(pattern, 1)
        self.connected.set()

    def _on_message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        self.heard.append((message.topic, bytes(message.payload)))
        if message.topic == channels.CURSOR.topic(self._vehicle):
            cursor = decode(channels.CURSOR, message.payload, Cursor)
            with self._changed:
                for stream in cursor.streams:
                    covered = self._covered.setdefault((stream.boot, stream.stream), set())
                    covered.update(range(1, stream.prefix + 1))
                    for span in stream.ranges:
                        covered.update(range(span.first, span.last + 1))
                self._changed.notify_all()


def stop(process: Process) -> None:
    """SIGTERM, and SIGKILL where that is not enough."""
    process.send_signal(15)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.send_signal(9)
        process.wait()
