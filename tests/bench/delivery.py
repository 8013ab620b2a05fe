"""Figures of the delivery of releases: what it costs to ask whether there is anything new, and how it then comes."""

import tempfile
import time
from functools import partial
from pathlib import Path

from tests.bench import deltas
from tests.bench.figures import Figure, Result
from tests.fakes.repository import utc_now
from tests.fakes.staged_vehicle import StagedVehicle

CHECKS = 20
_figure = partial(Figure, command="scripts/bench delivery")


def figures(data: Path | None) -> list[Result]:
    """All that `scripts/bench delivery` measures."""
    return [*_check(), *deltas.figures(data)]


def _check() -> list[Result]:
    """A check of the image repository when nothing has changed."""
    with tempfile.TemporaryDirectory() as folder:
        vehicle = StagedVehicle(Path(folder), utc_now())
        vehicle.trust.refresh()
        received: list[int] = []
        deliver = vehicle.server.deliver

        def counted(sha256: str, n: int, block: object) -> None:
            received.append(len(getattr(block, "data", b"")))
            deliver(sha256, n, block)  # type: ignore[arg-type]

        vehicle.server.deliver = counted
        begin_s = time.process_time()
        for _ in range(CHECKS):
            vehicle.trust.refresh()
        cpu_ms = (time.process_time() - begin_s) * 1000 / CHECKS
    return [
        _figure("check_image_repository_bytes", sum(received) / CHECKS, "B"),
        _figure("check_image_repository_cpu_ms", cpu_ms, "ms", bar=10.0),
    ]
