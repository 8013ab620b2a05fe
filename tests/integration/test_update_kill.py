"""SIGKILL before and after every call of the system that the store makes: a version always loads afterwards."""

import os
import shutil
from pathlib import Path

import pytest

from roadloop_agent.update.store import open_version
from tests.fakes.injection import killed_at
from tests.fakes.opaque_bundles import VARIANT
from tests.fakes.provisioned import SLOT, Vehicle, life, started


@pytest.fixture(autouse=True)
def _fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill loses nothing that the kernel has: waiting for the disk would prove nothing here."""
    monkeypatch.setattr(os, "fsync", os.fstat)


def test_a_kill_at_any_call_leaves_a_version_that_loads(tmp_path: Path) -> None:
    vehicle = Vehicle.made(tmp_path)
    points = 0
    for number in range(1, 1000):
        killed = {}
        for moment in ("before", "after"):
            here = Vehicle(vehicle.directory, tmp_path / "points" / f"{number}-{moment}")
            killed[moment] = killed_at(number, moment, lambda here=here: life(here))  # type: ignore[misc]
            if not killed[moment]:
                continue  # the end of this life, or a call that fails by itself
            points += 1
            store = here.provisioned()
            state = store.slot(SLOT)
            for ref in state.refs:
                open_version(store.version_directory(ref), ref, VARIANT)
            assert started(store) in (1, 2, 3)
            if state.trial is not None:
                here.take_back(store, state.trial.release, None)
            third = here.ref(3)
            here.begin(store, 3)
            assert here.confirm(store, 3).confirmed == third, "the next update is not in the way"
            store.collect_garbage()
            assert started(store) == 3
            shutil.rmtree(here.state)
        if not killed["before"]:
            break
    assert points > 100
