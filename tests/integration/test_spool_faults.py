"""The spool on a disk that fills and frees, and killed while it evicts and shrinks."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from roadloop_agent.link.batcher import Gap, Intake, SealedBatch
from roadloop_agent.link.cache import Cache
from roadloop_agent.link.spool import Spool
from roadloop_agent.link.value import Worth
from roadloop_agent.link.waiting import bounded, size_bytes
from roadloop_models.errors import DiskFullError

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB; needs the right to mount."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"mount: {mounted.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def sealed(seq: int, size: int = 20_000, value: float = 0.5) -> SealedBatch:
    return SealedBatch(1, "road-speed", seq, seq, os.urandom(size), Worth(value))


def numbers(spool: Spool) -> list[int]:
    held = [seq for row in spool.pending(100_000) for seq in range(row.first_seq, row.last_seq + 1)]
    lost = [seq for gap in spool.lost(100_000) for seq in range(gap.first_seq, gap.last_seq + 1)]
    return sorted(held + lost)


def test_a_disk_that_fills_and_frees_costs_only_what_memory_cannot_hold(small_disk: Path) -> None:
    spool = Spool(small_disk / "spool.sqlite", 64 * MIB, 60.0, 0.0)
    cache = Cache(small_disk / "cache.sqlite")
    waiting: deque[Intake] = deque()
    failures = 0
    for seq in range(1, 301):
        waiting.append(sealed(seq, value=(seq % 7 + 1) / 8))
        try:
            spool.append(waiting, 0.0)
        except DiskFullError:
            failures += 1
            waiting = bounded(waiting, MIB)
            assert size_bytes(waiting) <= MIB
            cache.put("status", {"seq": seq})  # must stop nobody, written or not
            with contextlib.suppress(DiskFullError):
                spool.tend(float(seq))
    assert failures > 50 and spool.stats().pending_batches > 20
    assert {entry.reason for entry in waiting if isinstance(entry, Gap)} == {"disk-full:low-value"}
    subprocess.run(["mount", "-o", "remount,size=32m", str(small_disk)], check=True)
    spool.append(waiting, 0.0)
    assert not waiting
    assert numbers(spool) == list(range(1, 301))
    kept = [row.first_seq % 7 for row in spool.pending(1000)][-40:]
    assert 6 in kept and 0 not in kept  # the most valuable waited, the least did not
    cache.put("status", {"seq": 301})
    cache.close()
    spool.close()


SCRIPT = textwrap.dedent(
    """
    import random, sys
    from collections import deque
    from pathlib import Path
    from roadloop_agent.link.batcher import SealedBatch
    from roadloop_agent.link.spool import Spool
    from roadloop_agent.link.value import Worth
    from roadloop_models.contract.messages import Cursor, StreamCursor
    draw = random.Random(int(sys.argv[2]))
    spool = Spool(Path(sys.argv[1]), 4 << 20, 0.0, 0.0)
    seq = spool.known().get((1, "road-speed"), 0)
    print(seq, flush=True)
    while True:
        seq += 1
        worth = Worth(draw.random())
        spool.append(deque([SealedBatch(1, "road-speed", seq, seq, bytes(draw.randrange(60_000)), worth)]), 0.0)
        print(seq, flush=True)
        if seq % 150 == 0:
            # The cloud takes all of another stream only: nothing of this one may go without being declared.
            for number in range(1, 40):
                spool.append(deque([SealedBatch(1, f"s{seq}", number, number, bytes(30_000), Worth(3.0))]), 0.0)
            stream = StreamCursor(boot=1, stream=f"s{seq}", prefix=39)
            spool.apply_cursor(Cursor(epoch=1, streams=(stream,)), float(seq))
        spool.tend(float(seq))
    """
)


def test_kills_while_it_evicts_and_shrinks_leave_every_number_accounted_for(tmp_path: Path) -> None:
    path, seen = tmp_path / "spool.sqlite", 0
    for start in range(6):
        command = [sys.executable, "-c", SCRIPT, str(path), str(start)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            first = int(child.stdout.readline())
            assert first >= seen
            while seen < first + 160 + 7 * start:
                seen = int(child.stdout.readline())
            child.send_signal(signal.SIGKILL)
            rest = child.stdout.read().split("\n")[:-1]
            seen = int(rest[-1]) if rest else seen
        spool = Spool(path, 4 * MIB, 0.0, 0.0)
        last = spool.known()[1, "road-speed"]
        assert last >= seen
        spans = [(row.stream, row.first_seq, row.last_seq) for row in spool.pending(100_000)]
        spans += [(gap.stream, gap.first_seq, gap.last_seq) for gap in spool.lost(100_000)]
        mine = {seq for stream, begin, end in spans if stream == "road-speed" for seq in range(begin, end + 1)}
        assert mine == set(range(1, last + 1))
        assert spool.stats().disk_bytes <= 4 * MIB
        assert spool.check(lambda: False) is True
        spool.close()
