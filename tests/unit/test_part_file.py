"""A download on disk: what is here after any order of blocks, streams and restarts."""

import hashlib
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadloop_agent.update.parts import PartFile
from roadloop_models.contract.channels import BLOCK_BYTES
from roadloop_models.errors import DiskFullError

CONTENT = random.Random(1).randbytes(3 * BLOCK_BYTES + 1000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def opened(directory: Path) -> PartFile:
    return PartFile(directory, SHA256, len(CONTENT))


def block(n: int) -> bytes:
    return CONTENT[n * BLOCK_BYTES : (n + 1) * BLOCK_BYTES]


def test_blocks_and_streams_make_one_file(tmp_path: Path) -> None:
    part = opened(tmp_path)
    assert part.gaps() == [(0, len(CONTENT))]
    part.write(1, block(1))
    assert part.gaps() == [(0, BLOCK_BYTES), (2 * BLOCK_BYTES, len(CONTENT))]
    assert part.append(0, CONTENT[:1000]) == []
    assert part.append(1000, CONTENT[1000:BLOCK_BYTES]) == [0]
    assert part.append(2 * BLOCK_BYTES, CONTENT[2 * BLOCK_BYTES :]) == [2, 3]
    assert part.gaps() == [] and part.is_sound()


def test_a_stream_that_broke_off_goes_on_within_the_block(tmp_path: Path) -> None:
    opened(tmp_path).append(0, CONTENT[: BLOCK_BYTES + 10_000])
    part = opened(tmp_path)
    assert part.have == {0}
    ((first, end),) = part.gaps()
    assert BLOCK_BYTES + 10_000 - 256 < first <= BLOCK_BYTES + 10_000 and end == len(CONTENT)
    part.append(first, CONTENT[first:])
    assert part.is_sound()


def test_what_is_cut_or_of_another_size_begins_anew(tmp_path: Path) -> None:
    opened(tmp_path).write(0, block(0))
    os.truncate(tmp_path / f"{SHA256}.part", 5)
    assert opened(tmp_path).gaps() == [(0, len(CONTENT))]
    opened(tmp_path).write(0, block(0))
    (tmp_path / f"{SHA256}.have").write_bytes(b"\xff")
    assert opened(tmp_path).gaps() == [(0, len(CONTENT))]


def test_a_disk_without_room_is_said_before_anything_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((*real[:4], 1, *real[5:])))
    with pytest.raises(DiskFullError):
        opened(tmp_path)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 30))
def test_any_order_of_transports_and_kills_ends_with_the_file(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng, directory = random.Random(seed), tmp_path_factory.mktemp("part")
    part, here = opened(directory), 0
    while gaps := part.gaps():
        missing = sum(end - first for first, end in gaps)
        assert missing <= len(CONTENT) - here + 4 * 256, "a restart costs less than 256 bytes of each block"
        first, end = rng.choice(gaps)
        if rng.random() < 0.3:
            n = rng.randrange(4)
            part.write(n, block(n))
        else:
            part.append(first, CONTENT[first : min(end, first + rng.randrange(1, 100_000))])
        here = len(CONTENT) - sum(end - first for first, end in part.gaps())
        if rng.random() < 0.3:
            part = opened(directory)
    assert part.is_sound()
