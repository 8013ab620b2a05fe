"""An hour of replay at ten times real time: does the agent's memory stay where it was?

Not among the groups that `scripts/bench` runs by itself, for its six minutes: name it.
"""

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from roadloop_models.bundle import Bundle
from roadloop_models.contract.streams import HEALTH
from roadloop_models.packaged import packaged_bundles
from tests.bench.figures import Figure, Result
from tests.bench.memory import VAN, pss_mb, write_video
from tests.fakes.agent import TestVehicle
from tests.fakes.broker import MosquittoBroker
from tests.fakes.repository import Repository, utc_now
from tests.fakes.small_cloud import SmallCloud

SPEED = 10.0
REPLAYED_S = 3600.0
SAMPLE_S = 5.0
SETTLE_SHARE = 0.25
"""Of the time, at the start: caches fill, and the spool reaches its usual size."""
PROFILE = f"""
hardware = "bench"
[sources.camera]
kind = "video"
path = "camera.mp4"
loop = true
speed = {SPEED}
rate_hz = 5.0
[sources.car]
kind = "made-drive"
rate_hz = 2.0
loop = true
speed = {SPEED}
[slots.sign]
task = "traffic-sign"
runtime = "onnx"
source = "camera"
rate_hz = 5.0
[slots.state]
task = "drive-state"
runtime = "tflite"
source = "car"
rate_hz = 2.0
"""
TASKS = {"sign": "traffic-sign", "state": "drive-state"}
_figure = partial(Figure, command="scripts/bench soak")


def figures(_data: Path | None) -> Iterator[Result]:
    """Memory of all processes along the way: its growth from the settled start to the end, and its largest value."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        broker, repository = MosquittoBroker(directory / "broker"), Repository(utc_now())
        bundles = {slot: Bundle.open(packaged_bundles()[task]) for slot, task in TASKS.items()}
        more = "[spool]\nmax_bytes = 8388608\nretain_committed_s = 30.0\n"
        van = TestVehicle(directory / VAN, VAN, broker, repository, bundles, PROFILE, more)
        write_video(van.directory / "camera.mp4")
        with broker, SmallCloud(broker, repository) as cloud, van:
            cloud.wait("it reports", lambda: VAN in cloud.reported, 60)
            at_s, total_mb = _watch(van)
            with cloud.lock:
                ledger = cloud.ledger(VAN)
                decisions = {name: _decisions(cloud, index) for index, name in enumerate(TASKS)}
                boots = {boot for boot, _ in ledger.rows}
                holes = sum(len(numbers) for numbers in ledger.holes().values())
    assert len(boots) == 1, f"drive was started {len(boots)} times"
    later = at_s >= REPLAYED_S / SPEED * SETTLE_SHARE
    slope_mb_s = float(np.polyfit(at_s[later], total_mb[later], 1)[0])
    yield _figure("replay_hours", float(at_s[-1]) * SPEED / 3600.0, "h")
    for slot, count in decisions.items():
        yield _figure(f"replay_decisions_{slot}", count, "")
    yield _figure("replay_samples_missing", float(holes), "", bar=0.0)
    yield _figure("replay_pss_mb_max", float(total_mb.max()), "MB")
    yield _figure("replay_pss_growth_mb_per_hour", slope_mb_s * 3600.0, "MB/h")
    yield _figure("replay_pss_growth_mb", slope_mb_s * float(at_s[-1]) * (1 - SETTLE_SHARE), "MB", bar=3.0)


def _watch(van: TestVehicle) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], ...]:
    """(seconds, memory of all processes in MB) while the hour is replayed."""
    begin_s = time.monotonic()
    at_s, total_mb = [], []
    while (passed_s := time.monotonic() - begin_s) < REPLAYED_S / SPEED:
        at_s.append(passed_s)
        total_mb.append(sum(pss_mb(van).values()))
        time.sleep(SAMPLE_S)
    return np.array([*at_s, passed_s]), np.array([*total_mb, sum(pss_mb(van).values())])


def _decisions(cloud: SmallCloud, slot_index: int) -> float:
    names = [field.name for field in HEALTH.fields]
    slot, decisions = names.index("slot"), names.index("decisions")
    rows = [row for key, found in cloud.ledger(VAN).rows.items() if key[1] == HEALTH.name for row in found.values()]
    return sum(row[decisions] for row in rows if row[slot] == slot_index)
