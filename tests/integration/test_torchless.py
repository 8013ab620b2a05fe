"""A host without torch takes telemetry in, moves it and decides; it leaves retraining to one that has torch."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest

from roadloop_cloud.retrain.pipeline import KIND, RetrainSpec
from tests.fakes.cloud import batch_message
from tests.fakes.live_cloud import LiveCloud, stop, wait_until

HIDE_TORCH = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] == "torch" else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):  # importlib.metadata asks finders for more
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


@contextmanager
def process(cloud: LiveCloud, name: str, path: Path | None = None) -> Iterator[None]:
    """One process of the service; `path` comes first where it looks for modules."""
    environment = dict(os.environ)
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(path), environment.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "roadloop_cloud.app", name, "--workspace", str(cloud.app.workspace.root)]
    with (cloud.directory / f"{name}.log").open("ab") as log:
        started = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
        assert started.poll() is None, (cloud.directory / f"{name}.log").read_text()
    finally:
        stop(started)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_without_torch_all_is_done_but_training(tmp_path: Path) -> None:
    cloud, hidden = LiveCloud(tmp_path, "van-1"), tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(HIDE_TORCH)
    asked = [sys.executable, "-c", "import torch"]
    environment = os.environ | {"PYTHONPATH": str(hidden)}
    assert subprocess.run(asked, env=environment, check=False, capture_output=True).returncode != 0
    spec = RetrainSpec(task="traffic-sign", data=str(tmp_path / "not-there"))
    job = cloud.app.jobs.add(KIND, msgspec.to_builtins(spec))
    with cloud.broker(), ExitStack() as running:
        for name in ("ingest", "fleet", "jobs"):
            running.enter_context(process(cloud, name, hidden))
        vehicle = running.enter_context(cloud.vehicle("van-1"))
        vehicle.send([batch_message("van-1", 1, 10)], lambda: vehicle.covers(10), 90.0)

        def done() -> set[str]:
            return {row.kind for row in cloud.app.jobs.list() if row.state == "done"}

        wait_until("the jobs are done", lambda: {"move-telemetry", "decide-loops"} <= done(), 90.0)
        assert (cloud.app.jobs.get(job).state, cloud.app.jobs.get(job).attempts) == ("queued", 0)
    with process(cloud, "jobs"):
        wait_until("it is taken up where torch is", lambda: cloud.app.jobs.get(job).attempts > 0, 90.0)
