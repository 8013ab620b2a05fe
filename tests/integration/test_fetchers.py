"""One suite for everything that fetches files: what resumes, what is refused, and when it is given up."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadHTTPError, DownloadLengthMismatchError, LengthOrHashMismatchError

from roadloop_agent.link.mqtt import tls_context
from roadloop_agent.update.fetch import MAX_METADATA_BYTES
from roadloop_agent.update.https import HttpsFetcher, connector
from roadloop_agent.update.resume import FetchContext, ResumingFetcher
from roadloop_cloud.identity.authority import Authority
from roadloop_models.contract.channels import BLOCK_BYTES
from roadloop_models.errors import FetchInterruptedError, LinkMeteredError, RetryLaterError
from tests.fakes.fetch_worlds import GIVE_UP_S, HttpsWorld, MqttWorld, World
from tests.fakes.live_cloud import wait_until
from tests.fakes.proxy import Proxy
from tests.fakes.served_files import ServedFiles

CONTENT = random.Random(7).randbytes(9 * BLOCK_BYTES + 1234)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
URL = f"targets/traffic-sign/2/{SHA256}.model.onnx"
BLOCKS = 10
OVERHEAD_BYTES = 30_000
"""Of a few connections: handshakes, records, heads."""


@pytest.fixture(params=["mqtt", "https"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    made: World = MqttWorld() if request.param == "mqtt" else HttpsWorld(tmp_path)
    with made:
        made.files[URL] = CONTENT
        made.files["metadata/timestamp.json"] = b"{}" * 100
        yield made


def fetch(fetcher: ResumingFetcher, parts: Path, context: FetchContext | None = None) -> bytes:
    with fetcher.context(context or FetchContext(parts)), fetcher.download_file(URL, len(CONTENT)) as file:
        return file.read()


def test_metadata_is_fetched(world: World) -> None:
    assert world.fetcher().download_bytes("metadata/timestamp.json", 1000) == b"{}" * 100
    with world.fetcher().download_file("metadata/timestamp.json", 1000) as file:
        assert file.read() == b"{}" * 100


def test_a_missing_file_is_a_404(world: World, tmp_path: Path) -> None:
    for url in ("metadata/2.root.json", URL.replace("model", "other")):
        fetcher = world.fetcher()
        with fetcher.context(FetchContext(tmp_path)), pytest.raises(DownloadHTTPError) as caught:
            fetcher.download_file(url, 100).__enter__()
        assert caught.value.status_code == 404


@pytest.mark.parametrize("max_length", [100, 1 << 40])
def test_endless_metadata_is_refused_before_it_is_read(world: World, max_length: int) -> None:
    world.files["metadata/timestamp.json"] = bytes(MAX_METADATA_BYTES + 1)
    with pytest.raises(DownloadLengthMismatchError, match="are announced"):
        world.fetcher().download_bytes("metadata/timestamp.json", max_length)
    assert world.received_bytes() < MAX_METADATA_BYTES + 1 + BLOCK_BYTES


def test_a_target_comes_whole_and_leaves_nothing_behind(world: World, tmp_path: Path) -> None:
    arrived: list[str] = []
    context = FetchContext(tmp_path / "parts", arrived=arrived.append)
    assert fetch(world.fetcher(), tmp_path / "parts", context) == CONTENT
    assert arrived == [URL] * BLOCKS
    assert list((tmp_path / "parts").iterdir()) == []


@pytest.mark.parametrize("cut_at", [0.0, 0.25, 0.6, 0.95])
def test_a_link_that_goes_costs_little_and_nothing_that_came(world: World, tmp_path: Path, cut_at: float) -> None:
    world.cut_after(int(cut_at * len(CONTENT)) + 8_000)
    with pytest.raises(RetryLaterError):
        fetch(world.fetcher(), tmp_path)
    world.mend()
    arrived: list[str] = []
    assert fetch(world.fetcher(), tmp_path, FetchContext(tmp_path, arrived=arrived.append)) == CONTENT
    assert len(arrived) == BLOCKS, "what came before counts"
    assert world.received_bytes() <= len(CONTENT) + OVERHEAD_BYTES + BLOCK_BYTES * isinstance(world, MqttWorld)


def test_slow_retrieval_is_given_up(world: World, tmp_path: Path) -> None:
    world.slow()
    begin_s = time.monotonic()
    with pytest.raises(FetchInterruptedError):
        fetch(world.fetcher(), tmp_path)
    assert time.monotonic() - begin_s < 20 * GIVE_UP_S


def test_other_content_in_its_place_is_refused_and_forgotten(world: World, tmp_path: Path) -> None:
    world.files[URL] = CONTENT[:-1] + b"x" if CONTENT[-1:] != b"x" else CONTENT[:-1] + b"y"
    with pytest.raises(LengthOrHashMismatchError):
        fetch(world.fetcher(), tmp_path / "parts")
    assert list((tmp_path / "parts").iterdir()) == []


@pytest.mark.parametrize("size_bytes", [100, len(CONTENT) + 1, 1 << 40])
def test_endless_data_is_refused_before_it_is_read(world: World, tmp_path: Path, size_bytes: int) -> None:
    world.sizes[URL] = size_bytes
    arrived: list[str] = []
    with pytest.raises(DownloadLengthMismatchError):
        fetch(world.fetcher(), tmp_path, FetchContext(tmp_path, arrived=arrived.append))
    assert not arrived


def test_a_part_that_was_tampered_with_is_fetched_again(world: World, tmp_path: Path) -> None:
    world.cut_after(4 * BLOCK_BYTES)
    with pytest.raises(RetryLaterError):
        fetch(world.fetcher(), tmp_path)
    with next(tmp_path.glob("*.part")).open("r+b") as part:
        part.write(b"tampered")
    world.mend()
    assert fetch(world.fetcher(), tmp_path) == CONTENT


def test_a_newer_wish_ends_it(world: World, tmp_path: Path) -> None:
    arrived: list[str] = []
    context = FetchContext(tmp_path, lambda: len(arrived) >= 2, arrived.append)
    with pytest.raises(FetchInterruptedError, match="newer"):
        fetch(world.fetcher(), tmp_path, context)
    assert len(arrived) < BLOCKS


def test_a_link_that_may_not_be_used_any_more_ends_it(world: World, tmp_path: Path) -> None:
    arrived: list[str] = []

    def allowed() -> None:
        if len(arrived) >= 2:
            raise LinkMeteredError("metered")

    with pytest.raises(LinkMeteredError):
        fetch(world.fetcher(), tmp_path, FetchContext(tmp_path, arrived=arrived.append, allowed=allowed))
    assert len(arrived) < BLOCKS


@pytest.mark.parametrize("first", ["mqtt", "https"])
def test_one_transport_goes_on_where_the_other_broke_off(tmp_path: Path, first: str) -> None:
    with MqttWorld() as mqtt, HttpsWorld(tmp_path) as https:
        begins, ends = (mqtt, https) if first == "mqtt" else (https, mqtt)
        for one in (begins, ends):
            one.files[URL] = CONTENT
        begins.cut_after(6 * BLOCK_BYTES)
        with pytest.raises(RetryLaterError):
            fetch(begins.fetcher(), tmp_path / "parts")
        assert fetch(ends.fetcher(), tmp_path / "parts") == CONTENT
        assert ends.received_bytes() < 6 * BLOCK_BYTES, "the other six are here"


# What only HTTPS has.


def test_a_file_server_of_another_authority_is_refused(tmp_path: Path) -> None:
    rogue = Authority(tmp_path / "rogue")
    (tmp_path / "rogue").mkdir()
    rogue.create("rogue CA")
    with ServedFiles(tmp_path / "server") as served:
        served.files.contents[URL] = CONTENT
        identity = served.identity("van-1")
        tls = tls_context(rogue.certificate_path, identity.certificate, identity.key)
        fetcher = HttpsFetcher(connector(f"https://127.0.0.1:{served.port}", tls), time.monotonic, time.sleep)
        with pytest.raises(RetryLaterError, match="certificate is refused"):
            fetch(fetcher, tmp_path)
        with pytest.raises(FetchInterruptedError):
            fetcher.download_bytes("metadata/timestamp.json", 100)
        assert not served.files.asked


def test_a_stalled_connection_is_replaced_and_goes_on(tmp_path: Path) -> None:
    with HttpsWorld(tmp_path) as world:
        world.files[URL] = CONTENT
        fetcher, proxy = world.fetcher(), world.proxy  # type: ignore[attr-defined]
        proxy.bytes_per_s = 1_000_000.0  # or all of it would be on its way before the stall
        arrived: list[str] = []

        def stall_once(url: str) -> None:
            arrived.append(url)
            if len(arrived) == 3:
                proxy.stalled.set()

        def mended(_pause_s: float) -> None:
            proxy.stalled.clear()

        fetcher._pause = mended  # type: ignore[attr-defined]
        assert fetch(fetcher, tmp_path, FetchContext(tmp_path, arrived=stall_once)) == CONTENT
        assert proxy.connections == 2


def test_a_kill_in_the_middle_of_a_download_by_https_costs_little(tmp_path: Path) -> None:
    with ServedFiles(tmp_path / "server") as served, Proxy(served.port) as proxy:
        served.files.contents[URL] = CONTENT
        identity = served.identity("van-1")
        paths = [str(path) for path in (identity.ca, identity.certificate, identity.key, tmp_path / "parts")]
        arguments = ["-m", "tests.fakes.https_download", str(proxy.port), URL, str(len(CONTENT)), *paths]
        for share in (0.3, 0.7):
            proxy.bytes_per_s = 2_000_000.0
            before = proxy.received_bytes
            child = subprocess.Popen([sys.executable, *arguments])
            wait_until("some of it came", lambda: proxy.received_bytes > share * len(CONTENT))  # noqa: B023
            os.kill(child.pid, signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
            assert proxy.received_bytes > before
        proxy.bytes_per_s = None
        assert subprocess.run([sys.executable, *arguments], check=True, capture_output=True).stdout == CONTENT
        lost_bytes = 2 * 128 * 1024  # what lay in the buffers of the two that were killed
        assert proxy.received_bytes <= len(CONTENT) + OVERHEAD_BYTES + lost_bytes
