"""What the whole agent costs a vehicle: memory of all its processes, and the processor while it has nothing to do."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from roadloop_models.bundle import Bundle
from roadloop_models.packaged import packaged_bundles
from tests.bench.figures import Figure, Result
from tests.fakes.agent import TestVehicle
from tests.fakes.broker import MosquittoBroker
from tests.fakes.repository import Repository, utc_now
from tests.fakes.small_cloud import SmallCloud

VAN = "van-bench"
SETTLE_S = 10.0
IDLE_S = 20.0
_figure = partial(Figure, command="scripts/bench vehicle")

CAMERA = """
hardware = "bench"
[sources.camera]
kind = "video"
path = "camera.mp4"
loop = true
[slots.sign]
task = "traffic-sign"
runtime = "{runtime}"
source = "camera"
rate_hz = {rate_hz}
"""
SIGNALS = """
hardware = "bench"
[sources.loops]
kind = "speeds-csv"
path = "speeds.csv"
loop = true
[slots.speed]
task = "traffic-speed"
runtime = "{runtime}"
source = "loops"
rate_hz = {rate_hz}
"""


def figures(_data: Path | None) -> list[Result]:
    """Memory with a camera and with signals, and the processor of an idle agent."""
    results: list[Result] = []
    for runtime in ("onnx", "tflite"):
        with running_agent(CAMERA.format(runtime=runtime, rate_hz=10.0), "sign") as van:
            results.append(_figure(f"agent_pss_mb_{runtime}", sum(pss_mb(van).values()), "MB", bar=120.0))
    with running_agent(SIGNALS.format(runtime="onnx", rate_hz=1.0), "speed") as van:
        results.append(_figure("agent_pss_mb_signals", sum(pss_mb(van).values()), "MB", bar=90.0))
    with running_agent(CAMERA.format(runtime="onnx", rate_hz=0.0), "sign") as van:
        results.append(_figure("agent_idle_cpu_percent", cpu_percent(van, IDLE_S), "%", bar=1.0))
    return results


@contextlib.contextmanager
def running_agent(profile: str, slot: str) -> Iterator[TestVehicle]:
    """An agent with the factory bundle of that slot, connected to a broker and a cloud that commits."""
    task = {"sign": "traffic-sign", "speed": "traffic-speed"}[slot]
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        broker, repository = MosquittoBroker(directory / "broker"), Repository(utc_now())
        bundle = Bundle.open(packaged_bundles()[task])
        van = TestVehicle(directory / VAN, VAN, broker, repository, {slot: bundle}, profile)
        _write_sources(van.directory)
        with broker, SmallCloud(broker, repository) as cloud, van:
            cloud.wait("it reports", lambda: VAN in cloud.reported, 60)
            time.sleep(SETTLE_S)  # what is measured is the state it stays in
            yield van


def processes(van: TestVehicle) -> dict[str, int]:
    """Role -> process id."""
    assert van.process is not None
    return {"supervisor": van.process.pid, "drive": van.child("drive"), "link": van.child("link")}


def pss_mb(van: TestVehicle) -> dict[str, float]:
    """Role -> proportional set size: what is shared between processes is counted once (10^6 bytes)."""
    return {role: _pss_kib(pid) * 1024 / 1e6 for role, pid in processes(van).items()}


def cpu_percent(van: TestVehicle, seconds: float) -> float:
    """Processor time of all processes over a stretch of wall time, in percent of one core."""
    before_s, begin_s = sum(map(_cpu_s, processes(van).values())), time.monotonic()
    time.sleep(seconds)
    return (sum(map(_cpu_s, processes(van).values())) - before_s) / (time.monotonic() - begin_s) * 100.0


def _pss_kib(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _write_sources(directory: Path) -> None:
    from roadloop_models.tasks.made_speeds import made_speeds

    write_video(directory / "camera.mp4")
    rows, _ = made_speeds(1, 3)
    header = ",".join(str(sensor) for sensor in range(rows.speeds_mph.shape[1]))
    np.savetxt(directory / "speeds.csv", rows.speeds_mph, fmt="%.2f", delimiter=",", header=header, comments="")


def write_video(path: Path) -> None:
    """A seeded video of 100 frames of 640x480, 25 a second."""
    random = np.random.default_rng(3)
    scene = cv2.resize(random.integers(0, 255, (30, 40, 3), dtype=np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (640, 480))
    for shift in range(100):
        writer.write(np.roll(scene, 3 * shift, axis=1))
    writer.release()
