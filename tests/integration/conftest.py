"""What tests of several parts together share."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.broker import MosquittoBroker
from tests.fakes.repository import Repository, utc_now
from tests.fakes.update_rig import Rig


@pytest.fixture
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing loses power, or only a process is killed: waiting for the disk would prove nothing."""
    monkeypatch.setattr(os, "fsync", os.fstat)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MosquittoBroker]:
    """A broker of its own for the test, not started."""
    broker = MosquittoBroker(tmp_path / "broker")
    yield broker
    broker.stop()


@pytest.fixture
def repository() -> Repository:
    """The cloud's repositories as they are now."""
    return Repository(utc_now())


@pytest.fixture
def start() -> Iterator[Callable[[Rig], Rig]]:
    """Starts update services; they are stopped after the test."""
    rigs: list[Rig] = []

    def begin(rig: Rig) -> Rig:
        rigs.append(rig)
        rig.start()
        return rig

    yield begin
    for rig in rigs:
        rig.service.stop()
