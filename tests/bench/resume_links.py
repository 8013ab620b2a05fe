"""What a link that drops three times costs: bytes that a vehicle receives for a file of 3 MB, counted at its socket."""

import hashlib
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from roadloop_agent.update.https import HttpsFetcher, connector
from roadloop_agent.update.resume import FetchContext, ResumingFetcher
from tests.bench.figures import Figure, Result
from tests.bench.serving import ServingCloud
from tests.fakes.linked_fetcher import LinkedFetcher
from tests.fakes.proxy import Proxy
from tests.fakes.served_files import ServedFiles

SIZE_BYTES = 3_000_000
CUTS = (700_000, 1_400_000, 2_100_000)
PACE_BYTES_PER_S = 1_000_000
"""The vehicle's link, so that what was sent ahead has somewhere to be lost."""
_figure = partial(Figure, command="scripts/bench delivery")


def figures(_data: Path | None) -> Iterator[Result]:
    """TLS, handshakes, topics and all that is sent again included."""
    with tempfile.TemporaryDirectory() as folder:
        yield _figure("resume_mb_mqtt", mqtt_bytes(Path(folder)) / 1e6, "MB", bar=3.25)
    with tempfile.TemporaryDirectory() as folder:
        yield _figure("resume_mb_https", https_bytes(Path(folder)) / 1e6, "MB", bar=3.05)


def mqtt_bytes(folder: Path) -> int:
    """Over mosquitto, with the service's usual pace above that of the link."""
    cloud = ServingCloud(folder)
    path, content = cloud.add_file("model", SIZE_BYTES, seed=1)
    with cloud.serving(), Proxy(cloud.port, CUTS) as proxy:
        proxy.bytes_per_s = PACE_BYTES_PER_S
        with LinkedFetcher("van-1", proxy.port, cloud.identity("van-1")) as vehicle:
            assert _fetch(vehicle.fetcher, folder, path) == content
        assert proxy.connections == len(CUTS) + 1
        return proxy.received_bytes


def https_bytes(folder: Path) -> int:
    """Over the file server."""
    with ServedFiles(folder) as served, Proxy(served.port, CUTS) as proxy:
        content = bytes(SIZE_BYTES)
        path = f"targets/bench/1/{hashlib.sha256(content).hexdigest()}.model"
        served.files.contents[path] = content
        proxy.bytes_per_s = PACE_BYTES_PER_S
        connect = connector(f"https://127.0.0.1:{proxy.port}", served.client_tls("van-1"))
        assert _fetch(HttpsFetcher(connect, time.monotonic, time.sleep), folder, path) == content
        assert proxy.connections == len(CUTS) + 1
        return proxy.received_bytes


def _fetch(fetcher: ResumingFetcher, folder: Path, path: str) -> bytes:
    with fetcher.context(FetchContext(folder / "parts")), fetcher.download_file(path, SIZE_BYTES) as file:
        return file.read()
