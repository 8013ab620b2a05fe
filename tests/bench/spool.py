"""What telemetry costs the vehicle's disk, and whether a backlog delays the start.

Bytes are those that the kernel sends to the storage layer for this process (write_bytes of /proc/self/io): the log, and
the file when the log is folded back into it.
"""

import contextlib
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections import deque
from functools import partial
from pathlib import Path

import numpy as np

from roadloop_agent.boot import BOOT_NAME
from roadloop_agent.ipc import Samples
from roadloop_agent.link.batcher import Batcher, Intake
from roadloop_agent.link.spool import Spool
from roadloop_agent.link.value import Appraiser, Memory
from roadloop_models.bundle import Bundle
from roadloop_models.contract.channels import TELEMETRY
from roadloop_models.contract.codec import decode
from roadloop_models.contract.columns import decode_columns
from roadloop_models.contract.messages import Cursor, StreamCursor, TelemetryBatch
from roadloop_models.contract.streams import ROAD_SPEED, SIGN_DECISION
from roadloop_models.packaged import packaged_bundles
from tests.bench.figures import Figure, Result, Skipped
from tests.fakes.agent import TestVehicle
from tests.fakes.broker import MosquittoBroker
from tests.fakes.profiles import sign_profile
from tests.fakes.repository import Repository, utc_now
from tests.fakes.small_cloud import SmallCloud

BATCH = 100
ROUNDS, BATCHES = 5, 400
BACKLOG_SAMPLES = 100_000
STARTS = 5
MAX_BYTES = 256 << 20
VAN = "van-bench"
PROFILE = sign_profile(20.0, hardware="bench")
_figure = partial(Figure, command="scripts/bench vehicle")


def figures(_data: Path | None) -> list[Result]:
    """Rate and bytes of the spool, and the start with a backlog over the start without one."""
    rates, appended, lived = zip(*(_spooled() for _ in range(ROUNDS)), strict=True)
    results: list[Result] = [
        _figure("spool_samples_per_s", statistics.median(rates), "/s", bar=25_000.0, direction="at least")
    ]
    if min(appended) > 0:
        results.append(_figure("spool_bytes_per_sample", statistics.median(appended), "B", bar=441.0))
        results.append(_figure("spool_bytes_per_sample_life", statistics.median(lived), "B"))
    else:
        results.append(Skipped("spool_bytes_per_sample", f"{tempfile.gettempdir()} is no disk; set TMPDIR"))
    return [*results, _figure("backlog_start_ratio", backlog_start_ratio(), "", bar=1.1)]


def _spooled() -> tuple[float, float, float]:
    """(durable samples a second, bytes written a sample, the same until they are committed, forgotten and vacuumed).

    From rows to rows on disk: appraised, encoded, compressed, and one transaction for every batch of 100.
    """
    with tempfile.TemporaryDirectory() as folder:
        messages = _messages(BATCHES * BATCH)
        spool = Spool(Path(folder) / "spool.sqlite", MAX_BYTES, 0.0, 0.0)
        batcher = Batcher(BATCH, 5.0, {}, Appraiser(Memory(), 0.1))
        before, begin_s = _write_bytes(), time.perf_counter()
        _append(spool, batcher, messages)
        seconds = time.perf_counter() - begin_s
        assert spool.stats().pending_samples == len(messages) * BATCH
        spool.close()  # folds the log back
        appended = _write_bytes() - before
        spool = Spool(Path(folder) / "spool.sqlite", MAX_BYTES, 0.0, 0.0)
        for last in range(0, BATCHES * BATCH + 1, 16 * BATCH):
            stream = StreamCursor(boot=1, stream=ROAD_SPEED.name, prefix=last)
            spool.apply_cursor(Cursor(epoch=1, streams=(stream,)), 1.0)
        for second in range(100):
            spool.tend(2.0 + second)
        assert spool.stats().committed_batches == spool.stats().pending_batches == 0
        spool.close()
        lived = _write_bytes() - before
    samples = len(messages) * BATCH
    return samples / seconds, appended / samples, lived / samples


def _append(spool: Spool, batcher: Batcher, messages: list[Samples]) -> None:
    for message in messages:
        waiting: deque[Intake] = deque(batcher.add(message, 0.0))
        spool.append(waiting, 0.0)


def _messages(samples: int) -> list[Samples]:
    """Made road speeds, 22 values a sample, as drive sends them."""
    random = np.random.default_rng(3)
    speeds = 55 + np.cumsum(random.normal(size=(samples, 20)) * 0.3, axis=0)
    rows = np.column_stack([np.arange(samples) // 11, np.arange(samples) % 11 * 20, np.round(speeds, 2)]).tolist()
    return [
        Samples(
            boot=1,
            stream=ROAD_SPEED.name,
            first_seq=start + 1,
            t_ms=list(range(start * 100, (start + BATCH) * 100, 100)),
            rows=rows[start : start + BATCH],
        )
        for start in range(0, samples, BATCH)
    ]


def _write_bytes() -> int:
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def backlog_start_ratio() -> float:
    """From the start of the agent to its first decision, with 100,000 samples in the spool and with none.

    The broker is up and takes the backlog while models are loaded. The starts take turns.
    """
    with tempfile.TemporaryDirectory() as folder:
        backlog = Path(folder) / "backlog.sqlite"
        spool = Spool(backlog, MAX_BYTES, 86_400.0, 0.0)
        _append(spool, Batcher(BATCH, 5.0, {}, Appraiser(Memory(), 0.1)), _messages(BACKLOG_SAMPLES))
        spool.close()
        directory = Path(folder)
        broker, repository = MosquittoBroker(directory / "broker"), Repository(utc_now())
        bundle = Bundle.open(packaged_bundles()["traffic-sign"])
        van = TestVehicle(directory / VAN, VAN, broker, repository, {"sign": bundle}, PROFILE)
        with broker, SmallCloud(broker, repository):
            _start_s(van, None)  # provisions, and warms the file cache
            times: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(STARTS):
                for loaded in (False, True):
                    times[loaded].append(_start_s(van, backlog if loaded else None))
    return statistics.median(times[True]) / statistics.median(times[False])


def _start_s(van: TestVehicle, backlog: Path | None) -> float:
    """Seconds from the start to the first decision, as the first sample of the boot says."""
    state = van.directory / "state"
    for path in state.glob("spool.sqlite*"):
        path.unlink()
    if backlog is not None:
        shutil.copy(backlog, state / "spool.sqlite")
    boot = int((state / BOOT_NAME).read_text(encoding="ascii")) + 1 if (state / BOOT_NAME).exists() else 1
    began_s = time.time()
    with van:
        until_s = time.monotonic() + 60
        while (first_ms := _first_decision_ms(state / "spool.sqlite", boot)) is None:
            assert time.monotonic() < until_s, van.log()
            time.sleep(0.2)
    return first_ms / 1000.0 - began_s


def _first_decision_ms(spool: Path, boot: int) -> int | None:
    """Wall time of the first decision that the spool has of this boot; None before there is one."""
    query = "SELECT payload FROM batch WHERE boot = ? AND stream = ? ORDER BY first_seq LIMIT 1"
    try:
        with contextlib.closing(sqlite3.connect(f"file:{spool}?mode=ro", uri=True)) as db:
            row = db.execute(query, (boot, SIGN_DECISION.name)).fetchone()
    except sqlite3.OperationalError:
        return None  # link has not made it yet
    return None if row is None else int(decode_columns(decode(TELEMETRY, row[0], TelemetryBatch).columns).t_ms[0])
