"""Faults at every call of the system that the store makes: the old release or the new one runs afterwards.

`python -m tests.crash_points` tries all of them and prints the table; here each kind is tried, most at every few calls.
"""

import errno
import os
from pathlib import Path

import pytest

from tests import crash_points
from tests.crash_points import KINDS, Bench, Kind


@pytest.fixture(params=list(KINDS), ids=lambda name: name.replace(" ", "-"))
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def bench(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A kill loses nothing that the kernel has: waiting for the disk would prove nothing here."""
    monkeypatch.setattr(os, "fsync", os.fstat)
    return Bench.made(kind, tmp_path)


def test_a_kill_at_any_call_leaves_a_version_that_loads(bench: Bench) -> None:
    stride = 1 if bench.kind is crash_points.Single else 5
    assert crash_points.kills(bench, stride) > 60


def test_a_torn_write_leaves_a_version_that_loads(bench: Bench) -> None:
    assert crash_points.torn_writes(bench, 2) > 5


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("once", [True, False], ids=["once", "from-then-on"])
def test_a_disk_that_fails_at_any_call_leaves_a_version_that_loads(bench: Bench, code: int, once: bool) -> None:
    assert crash_points.disk_errors(bench, code, once=once, stride=7) > 5


def test_a_bit_flip_in_any_file_leaves_a_version_that_loads(bench: Bench) -> None:
    assert crash_points.flipped_bits(bench, 25) == 25


@pytest.mark.slow
def test_power_loss_leaves_a_version_that_loads(kind: Kind, tmp_path: Path) -> None:
    if (reason := crash_points.no_loop_disk()) is not None:
        pytest.skip(reason)
    assert crash_points.power_cuts(Bench.made(kind, tmp_path), 10) > 10
