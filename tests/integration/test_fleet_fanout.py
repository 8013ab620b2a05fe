"""What several vehicles wait for, on a real broker: sent once, heard by those who wait, and by nobody else."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from roadloop_agent.update.blocks import block_count
from roadloop_agent.update.resume import FetchContext
from roadloop_models.contract import channels
from roadloop_models.contract.channels import BLOCK_BYTES, FLEET, FLEET_FILE
from roadloop_models.contract.codec import decode, encode
from roadloop_models.contract.messages import FileBlock
from tests.bench.serving import ServingCloud
from tests.fakes.linked_fetcher import LinkedFetcher
from tests.fakes.live_cloud import WAIT_S, WireVehicle, wait_until
from tests.fakes.proxy import Proxy

SIZE_BYTES = 12 * BLOCK_BYTES + 5
BLOCKS = block_count(SIZE_BYTES)


@pytest.fixture
def cloud(tmp_path: Path) -> ServingCloud:
    return ServingCloud(tmp_path)


def take(vehicles: list[LinkedFetcher], folder: Path, path: str, content: bytes) -> None:
    """All of them fetch the file at once."""

    def fetch(number: int) -> bytes:
        fetcher = vehicles[number].fetcher
        with fetcher.context(FetchContext(folder / str(number))), fetcher.download_file(path, len(content)) as file:
            return file.read()

    with ThreadPoolExecutor(len(vehicles)) as pool:
        assert list(pool.map(fetch, range(len(vehicles)), timeout=WAIT_S)) == [content] * len(vehicles)


def test_a_release_that_ten_take_is_sent_like_one_that_few_take(cloud: ServingCloud, tmp_path: Path) -> None:
    path, content = cloud.add_file("model", SIZE_BYTES, seed=1)
    with cloud.serving(), ExitStack() as stack:
        fleet = [stack.enter_context(LinkedFetcher(f"v-{n}", cloud.port, cloud.identity(f"v-{n}"))) for n in range(10)]
        bystander = stack.enter_context(LinkedFetcher("bystander", cloud.port, cloud.identity("bystander")))
        wait_until("all are connected", lambda: all(vehicle.connections for vehicle in [*fleet, bystander]))
        take(fleet, tmp_path / "parts", path, content)
        assert sum(cloud.sent.values()) <= 4 * BLOCKS, "not ten times"
        received = sum(vehicle.blocks + vehicle.blocks_for_all for vehicle in fleet)
        assert received <= 1.5 * 10 * BLOCKS, "and nobody hears it again and again"
        assert bystander.blocks == bystander.blocks_for_all == 0


def test_links_that_drop_and_crawl_hold_nobody_up(cloud: ServingCloud, tmp_path: Path) -> None:
    path, content = cloud.add_file("model", SIZE_BYTES, seed=1)
    with cloud.serving(), ExitStack() as stack:
        dropping = stack.enter_context(Proxy(cloud.port, cuts=(200_000, 400_000, 600_000)))
        crawling = stack.enter_context(Proxy(cloud.port))
        crawling.bytes_per_s = 400_000.0
        ports = {"drops": dropping.port, "crawls": crawling.port, **{f"v-{n}": cloud.port for n in range(4)}}
        fleet = [stack.enter_context(LinkedFetcher(name, port, cloud.identity(name))) for name, port in ports.items()]
        wait_until("all are connected", lambda: all(vehicle.connections for vehicle in fleet))
        take(fleet, tmp_path / "parts", path, content)
        assert dropping.connections == 4
        # Once alone, where it was the first to ask and its link is slower than its pace, and once with the others.
        assert dropping.received_bytes < 2.5 * SIZE_BYTES and crawling.received_bytes < 2.5 * SIZE_BYTES
        assert sum(cloud.sent.values()) <= 6 * BLOCKS


def test_what_a_killed_agent_wanted_to_hear_is_ended(cloud: ServingCloud, tmp_path: Path) -> None:
    path, content = cloud.add_file("model", SIZE_BYTES, seed=1)
    identity = cloud.identity("van-1")
    with cloud.serving():
        with LinkedFetcher("van-1", cloud.port, identity) as killed:
            wait_until("connected", lambda: killed.connections == 1)
            killed._hear(hashlib.sha256(content).hexdigest())
            killed.fetcher.download_bytes("metadata/timestamp.json", 100_000)  # asked for after it had subscribed
        with ExitStack() as stack:
            again = stack.enter_context(LinkedFetcher("van-1", cloud.port, identity))
            wait_until("connected again", lambda: again.connections == 1)
            others = [
                stack.enter_context(LinkedFetcher(f"v-{n}", cloud.port, cloud.identity(f"v-{n}"))) for n in range(3)
            ]
            take(others, tmp_path / "first", path, content)
            heard = again.blocks_for_all
            assert heard > 0, "the broker remembered: without that this proves nothing"
            take(others, tmp_path / "again", path, content)
            assert again.blocks_for_all <= heard + BLOCKS // 2, "it hears no more of it"


def test_no_vehicle_may_send_to_all(cloud: ServingCloud) -> None:
    topic = FLEET_FILE.topic(FLEET, sha256="a" * 64, n=0)
    block = FileBlock(path="targets/x", size_bytes=1, crc32=0, data=b"x")
    with cloud.cloud.broker(), ExitStack() as stack:
        rogue = WireVehicle("rogue", cloud.port, cloud.identity("rogue"))
        spy = WireVehicle("spy", cloud.port, cloud.identity("spy"))
        for vehicle in (spy, rogue):
            vehicle.start([channels.for_all_filter("a" * 64)])
            stack.callback(vehicle.stop)
        rogue.publish(topic, encode(FLEET_FILE, block))
        service = cloud.cloud.mqtt_client("cloud-fleet")
        service.start()
        stack.callback(service.stop)
        wait_until("the service is connected", lambda: service.connected)
        service.publish(FLEET_FILE, FLEET, msgspec.structs.replace(block, data=b"y"), sha256="a" * 64, n=0)
        wait_until("the service's word is heard", lambda: any(heard == topic for heard, _ in spy.heard))
        heard = [decode(FLEET_FILE, payload, FileBlock).data for got, payload in spy.heard if got == topic]
        assert heard == [b"y"]
