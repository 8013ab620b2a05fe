"""What the cloud sends when 100 vehicles take one release at once: blocks sent, of those that every vehicle needs."""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from roadloop_agent.update.blocks import block_count
from roadloop_agent.update.resume import FetchContext
from tests.bench.figures import Figure, Result
from tests.bench.serving import ServingCloud
from tests.fakes.linked_fetcher import LinkedFetcher

VEHICLES = 100
FILES = {"manifest.json": 4_000, "golden.npz": 40_000, "labels.txt": 1_000, "model.onnx": 2_000_000}
DEADLINE_S = 240.0
_figure = partial(Figure, command="scripts/bench delivery")


def figures(_data: Path | None) -> Iterator[Result]:
    """One release of 2 MB over one broker; every vehicle checks the hash of every file."""
    with tempfile.TemporaryDirectory() as folder:
        sent, received = measure(Path(folder), VEHICLES)
    blocks = sum(block_count(size_bytes) for size_bytes in FILES.values())
    yield _figure("fanout_ratio", sent / VEHICLES / blocks, "", bar=0.05)
    yield _figure("fanout_received_ratio", received / VEHICLES / blocks, "")


def measure(folder: Path, vehicles: int) -> tuple[int, int]:
    """(blocks that the cloud sent, blocks that all vehicles received together)."""
    cloud = ServingCloud(folder)
    files = [cloud.add_file(name, size_bytes, seed) for seed, (name, size_bytes) in enumerate(FILES.items())]
    identities = {f"van-{index}": cloud.identity(f"van-{index}") for index in range(vehicles)}
    done: list[str] = []
    with cloud.serving(), ExitStack() as stack:
        fleet = {
            name: stack.enter_context(LinkedFetcher(name, cloud.port, identity))
            for name, identity in identities.items()
        }

        def fetch_all(name: str) -> None:
            fetcher = fleet[name].fetcher
            with fetcher.context(FetchContext(folder / name)):
                for path, content in files:
                    with fetcher.download_file(path, len(content)) as file:
                        assert file.read() == content
            done.append(name)

        threads = [threading.Thread(target=fetch_all, args=(name,), daemon=True) for name in fleet]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
        assert sorted(done) == sorted(fleet), f"{len(done)} of {vehicles} have the release"
        received = sum(vehicle.blocks + vehicle.blocks_for_all for vehicle in fleet.values())
    return sum(cloud.sent.values()), received
