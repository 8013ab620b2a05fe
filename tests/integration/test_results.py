"""What link serves on the vehicle: readers that come, go, sleep and are too many; Prometheus over HTTP."""

import json
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from roadloop_agent.ipc import Decided, Hello
from roadloop_agent.link.local import MAX_READERS, LocalServer
from roadloop_agent.link.metrics import Meter
from roadloop_agent.local_socket import unix_address
from roadloop_agent.tail import follow
from roadloop_models.errors import NotFoundError, RetryLaterError
from tests.fakes.agent import TestVehicle
from tests.fakes.broker import MosquittoBroker
from tests.fakes.bundles import tiny_bundle
from tests.fakes.repository import Repository, utc_now

VAN = "van-1"


class Served:
    """A local server in a thread of this process."""

    def __init__(self, directory: Path, metrics_port: int | None = 0) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / "results.sock"
        self.watched: list[bool] = []
        self.pipe_is_full = False
        self.server = LocalServer(
            socket_path=self.path, metrics_port=metrics_port, meter=Meter(self), watch=self._watch, clock=time.monotonic
        )
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.server.run, args=(self.stop, lambda: None))

    def put(self, key: str, value: Any) -> None:
        """A StatusStore."""

    def _watch(self, on: bool) -> bool:
        if not self.pipe_is_full:
            self.watched.append(on)
        return not self.pipe_is_full

    def decide(self, number: int, size: int = 1, dropped: int = 0) -> None:
        decision = {"number": number, "padding": "x" * size}
        self.server.hear(Decided(boot=1, slot="sign", release=1, t_ms=1, dropped=dropped, decision=decision))

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(10)
        with unix_address(self.path) as address:
            connection.connect(address)
        return connection

    def wait(self, what: str, reached: Callable[[], bool]) -> None:
        until_s = time.monotonic() + 10
        while not reached():
            assert time.monotonic() < until_s, what
            time.sleep(0.005)

    def __enter__(self) -> "Served":
        self.thread.start()
        self.wait("it listens", lambda: self.server._doors[0].listener is not None)
        assert stat.S_IMODE(self.path.stat().st_mode) == 0o660
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(5)
        assert not self.thread.is_alive()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as served:
        yield served


def numbers(connection: socket.socket, count: int) -> list[int]:
    with connection.makefile("rb") as lines:
        return [json.loads(line)["decision"]["number"] for line in islice(lines, count)]


def test_every_reader_gets_what_is_decided_from_now_on(served: Served) -> None:
    served.decide(0)  # nobody listens
    with served.connect() as first, served.connect() as second:
        served.wait("drive is told", lambda: served.watched[-1:] == [True])
        served.wait("both are in", lambda: len(served.server._readers) == 2)
        for number in range(1, 51):
            served.decide(number)
        assert numbers(first, 50) == numbers(second, 50) == list(range(1, 51))
    served.wait("drive is told that nobody listens", lambda: served.watched[-1:] == [False])


def test_a_new_drive_is_told_again_and_a_full_pipe_is_tried_again(served: Served) -> None:
    with served.connect():
        served.wait("drive is told", lambda: served.watched[-1:] == [True])
        served.pipe_is_full = True
        served.server.hear(Hello(boot=2, slots={}))
        time.sleep(0.05)
        before = len(served.watched)
        served.pipe_is_full = False
        served.wait("it is told again", lambda: served.watched[before:] == [True])


def test_a_reader_that_sleeps_costs_the_others_nothing_and_is_told_what_it_missed(served: Served) -> None:
    with served.connect() as sleeper, served.connect() as awake:
        served.wait("both are in", lambda: len(served.server._readers) == 2)
        for number in range(400):
            served.decide(number, size=5000)
            assert numbers(awake, 1) == [number] or number < 0
        served.wait("the sleeper loses", lambda: served.server._lines_dropped > 0)
        lost = served.server._lines_dropped
        with sleeper.makefile("rb") as lines:
            messages: list[dict[str, Any]] = []
            while sum("dropped" in message for message in messages) == 0:
                messages.append(json.loads(lines.readline()))
        assert messages[-1]["dropped"] == lost
        assert [message["decision"]["number"] for message in messages[:-1]] == list(range(400 - lost))


def test_what_drive_could_not_send_is_told_too(served: Served) -> None:
    with served.connect() as reader, reader.makefile("rb") as lines:
        served.wait("it is in", lambda: len(served.server._readers) == 1)
        served.decide(1)
        assert "decision" in json.loads(lines.readline())
        served.decide(2, dropped=7)
        assert json.loads(lines.readline()) == {"dropped": 7}
        assert json.loads(lines.readline())["decision"]["number"] == 2


def test_too_many_readers_are_turned_away_and_the_rest_served(served: Served) -> None:
    readers = [served.connect() for _ in range(MAX_READERS)]
    served.wait("all are in", lambda: len(served.server._readers) == MAX_READERS)
    with served.connect() as late:
        assert late.recv(1) == b""
    served.decide(1)
    for reader in readers:
        assert numbers(reader, 1) == [1]
        reader.close()


def test_a_path_longer_than_the_kernel_takes(tmp_path: Path) -> None:
    with Served(tmp_path / ("long" * 40)) as served, served.connect() as reader:
        served.wait("it is in", lambda: len(served.server._readers) == 1)
        served.decide(5)
        assert numbers(reader, 1) == [5]


def test_a_socket_that_an_earlier_link_left_is_replaced(tmp_path: Path) -> None:
    with Served(tmp_path):
        pass
    assert (tmp_path / "results.sock").exists()
    with Served(tmp_path) as served, served.connect():
        served.wait("it is in", lambda: len(served.server._readers) == 1)


def test_tail_says_when_link_is_not_there_and_when_it_goes(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="is the agent running"):
        next(follow(tmp_path / "results.sock"))
    with Served(tmp_path) as served:
        lines = follow(served.path)
        heard: list[dict[str, Any]] = []
        ended: list[str] = []

        def listen() -> None:
            try:
                heard.extend(lines)
            except RetryLaterError as error:
                ended.append(str(error))

        thread = threading.Thread(target=listen)
        thread.start()
        served.wait("it is in", lambda: len(served.server._readers) == 1)
        served.decide(1)
    thread.join(5)
    assert len(ended) == 1 and "starts again by itself" in ended[0]


def scrape(port: int | None, path: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return str(response.read().decode())


def test_metrics_are_served_on_loopback_alone(served: Served) -> None:
    port = served.server.metrics_port
    assert "roadloop_results_readers 0\n" in scrape(port)
    with pytest.raises(urllib.error.HTTPError) as refused:
        scrape(port, "/state")
    assert refused.value.code == 404
    with socket.create_connection(("127.0.0.1", port)) as rude:
        rude.sendall(b"x" * 20_000)  # more than is read, and no request
        rude.settimeout(10)
        assert rude.recv(100).startswith(b"HTTP/1.1 431")
    listening = Path("/proc/net/tcp").read_text(encoding="ascii")
    assert f"0100007F:{port:04X} " in listening and f"00000000:{port:04X} " not in listening


def test_without_a_port_there_are_no_metrics(tmp_path: Path) -> None:
    with Served(tmp_path, metrics_port=None) as served:
        assert served.server.metrics_port is None


def test_a_port_that_is_taken_does_not_keep_results_from_being_served(tmp_path: Path) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    with taken, Served(tmp_path, metrics_port=taken.getsockname()[1]) as served, served.connect() as reader:
        served.wait("it is in", lambda: len(served.server._readers) == 1)
        served.decide(5)
        assert numbers(reader, 1) == [5]


def test_the_agent_streams_what_it_decides(tmp_path: Path) -> None:
    broker = MosquittoBroker(tmp_path / "broker")  # stays off: results need no network
    bundle = tiny_bundle(tmp_path / "bundle")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    more = f"[metrics]\nport = {port}\n"
    van = TestVehicle(tmp_path / VAN, VAN, broker, Repository(utc_now()), {"sign": bundle}, more=more)
    with van:
        path = van.directory / "state" / "results.sock"
        van.wait("it serves", path.exists)
        for _ in range(2):
            first, *_, last = islice(follow(path, "sign"), 20)
            assert set(first) == {"slot", "release", "t_ms", "decision"} and first["release"] == 1
            assert set(first["decision"]) == {"class_id", "label", "confidence"}
            assert last["t_ms"] - first["t_ms"] >= 200
            van.kill("drive")
        command = [sys.executable, "-m", "roadloop_agent.cli", "tail", "--config", str(van.config), "--count", "3"]
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=30, check=True)
        assert [json.loads(line)["slot"] for line in done.stdout.splitlines()] == ["sign"] * 3
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        assert all("release 1" in line and "class_id=" in line for line in done.stdout.splitlines())
        van.wait("it counts", lambda: 'roadloop_decisions_total{slot="sign"}' in scrape(port))
        assert "roadloop_connected 0\n" in scrape(port)
        assert path.stat().st_mode & 0o777 == 0o660
