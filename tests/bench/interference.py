"""What a slot feels of the rest of the agent: its latency while a backlog goes up and an update is applied."""

import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from roadloop_agent.boot import next_boot
from roadloop_agent.config import load_config
from roadloop_agent.link.batcher import Intake, SealedBatch
from roadloop_agent.link.spool import Spool
from roadloop_models.bundle import MANIFEST_NAME, Bundle
from roadloop_models.bundle.manifest import encode_manifest
from roadloop_models.contract.channels import TELEMETRY
from roadloop_models.contract.codec import encode
from roadloop_models.contract.columns import encode_columns
from roadloop_models.contract.messages import Desired, Policy, TelemetryBatch
from roadloop_models.contract.streams import DETECTION, HEALTH, SIGN_DECISION, Stream
from roadloop_models.packaged import packaged_bundles
from tests.bench.driving_profiles import DETECTOR_PROFILE, SIGN_PROFILE, SLOT
from tests.bench.figures import Figure, Result, Skipped
from tests.bench.latency import imported_detector
from tests.fakes.agent import TestVehicle
from tests.fakes.broker import MosquittoBroker
from tests.fakes.repository import Repository, utc_now
from tests.fakes.small_cloud import Ledger, SmallCloud

VAN = "van-bench"
BACKLOG_SAMPLES, BATCH = 100_000, 100
QUIET_S = 20.0
PATIENCE_S = 120.0
_figure = partial(Figure, command="scripts/bench vehicle")


@dataclass(frozen=True)
class Case:
    """A slot to watch, and where its telemetry says how long a decision took."""

    name: str
    bundle: Callable[[Path], Bundle]
    """Makes or finds the bundle, given a folder to make it in."""
    profile: str
    stream: Stream


def figures(data: Path | None) -> list[Result]:
    """The 99th percentile of a slot's latency under way of an update, over that of a quiet time."""
    cases = [Case("cnn", lambda _: Bundle.open(packaged_bundles()["traffic-sign"]), SIGN_PROFILE, SIGN_DECISION)]
    results: list[Result] = []
    if data is None:
        results.append(Skipped("latency_p99_ratio_under_update_detector", "ROADLOOP_DATA names no data"))
    else:
        clip = (data / "video" / "solidWhiteRight.mp4").resolve()
        profile = DETECTOR_PROFILE.format(clip=clip)
        cases.append(Case("detector", partial(imported_detector, data), profile, DETECTION))
    results += [_figure(f"latency_p99_ratio_under_update_{case.name}", _ratio(case), "", bar=1.5) for case in cases]
    return results


def _ratio(case: Case) -> float:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        broker, repository = MosquittoBroker(directory / "broker"), Repository(utc_now())
        bundle = case.bundle(directory)
        van = TestVehicle(directory / VAN, VAN, broker, repository, {SLOT: bundle}, case.profile)
        fill_spool(van, BACKLOG_SAMPLES)
        release = repository.add(another_version(bundle, directory / "next"), 2)
        with van:
            van.wait("it drives without a broker", lambda: _pending(van) > BACKLOG_SAMPLES)
            with broker, SmallCloud(broker, repository) as cloud:
                begin_ms = time.time_ns() // 1_000_000
                policy = Policy(health_window_s=3.0)
                cloud.desire(VAN, Desired(version=1, slots={SLOT: release}, policy=policy))
                cloud.wait(
                    "the backlog is up", lambda: cloud.ledger(VAN).stored(HEALTH.name) >= BACKLOG_SAMPLES, PATIENCE_S
                )
                cloud.wait("the update is confirmed", lambda: _confirmed(cloud, release.release), PATIENCE_S)
                busy_ms = time.time_ns() // 1_000_000
                time.sleep(QUIET_S)
                end_ms = time.time_ns() // 1_000_000
                wait_for_samples(cloud, case.stream, end_ms)
                with cloud.lock:
                    latency_us, t_ms = latencies(cloud, case.stream)
    busy = latency_us[(t_ms >= begin_ms) & (t_ms < busy_ms)]
    quiet = latency_us[(t_ms >= busy_ms) & (t_ms < end_ms)]
    return float(np.percentile(busy, 99) / np.percentile(quiet, 99))


def fill_spool(van: TestVehicle, samples: int) -> None:
    """Leave that many samples of health in the spool, as an earlier boot would have, before the agent first starts."""
    config = load_config(van.config)
    config.state_dir.mkdir(parents=True, exist_ok=True)
    boot = next_boot(config.state_dir, config.spool_path)
    spool = Spool(config.spool_path, config.spool.max_bytes, config.spool.retain_committed_s, time.monotonic())
    random = np.random.default_rng(3)
    batches: deque[Intake] = deque()
    for first in range(1, samples + 1, BATCH):
        rows = random.integers(0, 500, size=(BATCH, len(HEALTH.fields))).astype(float).tolist()
        columns = encode_columns(HEALTH.fields, range(first * 1000, (first + BATCH) * 1000, 1000), rows)
        last = first + BATCH - 1
        payload = encode(TELEMETRY, TelemetryBatch(boot=boot, first_seq=first, last_seq=last, columns=columns))
        batches.append(SealedBatch(boot, HEALTH.name, first, last, payload))
    spool.append(batches, time.monotonic())
    spool.close()


def another_version(bundle: Bundle, directory: Path) -> Bundle:
    """The same files under the next version's name."""
    shutil.copytree(bundle.directory, directory)
    manifest = msgspec.structs.replace(bundle.manifest, version=f"{bundle.manifest.version}-next")
    (directory / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return Bundle.open(directory)


def _pending(van: TestVehicle) -> int:
    return int(van.status().get("spool", {}).get("pending_samples", 0))


def _confirmed(cloud: SmallCloud, release: int) -> bool:
    reported = cloud.reported.get(VAN)
    slot = None if reported is None else reported.slots.get(SLOT)
    return slot is not None and slot.running is not None and slot.running.release == release and slot.state == "idle"


def wait_for_samples(cloud: SmallCloud, stream: Stream, until_ms: int) -> None:
    """Until all samples of a stream up to a moment have come."""
    cloud.wait(
        "the last samples have come", lambda: complete_until(cloud.ledger(VAN), stream.name, until_ms), PATIENCE_S
    )


def complete_until(ledger: Ledger, stream: str, until_ms: int) -> bool:
    """Whether a sample of the stream from that moment or later is there, and none before it is on its way."""
    newest_ms = max((max(times.values()) for key, times in ledger.t_ms.items() if key[1] == stream), default=0)
    return newest_ms >= until_ms and not any(key[1] == stream for key in ledger.holes())


def latencies(cloud: SmallCloud, stream: Stream) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Microseconds of every decision, and its time."""
    column = [field.name for field in stream.fields].index("latency_us")
    ledger = cloud.ledger(VAN)
    found = [
        (row[column], ledger.t_ms[key][seq])
        for key, rows in ledger.rows.items()
        if key[1] == stream.name
        for seq, row in rows.items()
    ]
    latency_us, t_ms = zip(*found, strict=True)
    return np.array(latency_us), np.array(t_ms)
