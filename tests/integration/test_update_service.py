"""The update service from a wish to its end, on a real store and a real (simulated) repository."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from roadloop_agent.update.selftest import Check
from roadloop_agent.update.state import outcome_of
from roadloop_models.contract.messages import Desired, Policy, ReportedSlot
from roadloop_models.errors import GoldenMismatchError
from tests.fakes.repository import utc_now
from tests.fakes.staged_vehicle import SLOT, StagedVehicle
from tests.fakes.update_rig import Rig

pytestmark = pytest.mark.usefixtures("fast_disk")

Build = Callable[..., Rig]


@pytest.fixture
def build(tmp_path: Path, start: Callable[[Rig], Rig]) -> Build:
    return lambda **changes: start(Rig(StagedVehicle(tmp_path, utc_now()), **changes))


def test_a_wish_becomes_the_confirmed_release(build: Build) -> None:
    rig = build()
    rig.desire(rig.vehicle.second, 1)
    last = rig.until("idle", rig.vehicle.second)
    states = [slot.state for slot in rig.history]
    passed = list(dict.fromkeys(states))
    assert passed == ["idle", "fetching", "testing", "installing", "trial"]
    assert last == ReportedSlot(
        task="traffic-sign", running=rig.vehicle.second, runtime="onnx", precision="int8", state="idle"
    )
    progress = [(slot.blocks_done, slot.blocks_total) for slot in rig.history if slot.state == "fetching"]
    assert progress[-1][1] == 9 and len(progress) >= 9
    state = rig.vehicle.store.slot(SLOT)
    assert (state.confirmed, state.previous) == (rig.vehicle.second, rig.vehicle.first)


def test_back_to_the_release_before(build: Build) -> None:
    rig = build()
    rig.desire(rig.vehicle.second, 1)
    rig.until("idle", rig.vehicle.second)
    served = rig.vehicle.server.blocks("targets/")
    rig.desire(rig.vehicle.first, 2)
    rig.until("idle", rig.vehicle.first)
    assert rig.running == rig.vehicle.first and rig.vehicle.server.blocks("targets/") == served


def test_an_older_desired_version_is_ignored(build: Build) -> None:
    rig = build()
    rig.desire(rig.vehicle.second, 5)
    rig.until("idle", rig.vehicle.second)
    rig.desire(rig.vehicle.first, 4)
    rig.desire(rig.vehicle.second, 6)
    rig.desire(rig.vehicle.publish(3), 7)
    rig.until("fetching")
    assert rig.vehicle.first not in [slot.target for slot in rig.history]
    assert rig.service.desired_version == 7 and rig.vehicle.store.read().desired_version == 7


def test_golden_vectors_that_do_not_match_refuse_the_release(build: Build) -> None:
    def mismatch(check: Check, cancelled: Callable[[], bool]) -> None:
        raise GoldenMismatchError("vector 3 is off by 0.5")

    rig = build(selftest=mismatch)
    rig.desire(rig.vehicle.second, 1)
    slot = rig.until("refused", rig.vehicle.second)
    assert slot.error is not None and (slot.error.code, slot.running) == ("golden-mismatch", rig.vehicle.first)
    assert outcome_of(rig.vehicle.store.slot(SLOT).outcomes, rig.vehicle.second) is not None


def test_a_tampered_release_is_refused(build: Build) -> None:
    rig = build()
    path = rig.vehicle.repository.url("traffic-sign/2/model.onnx")
    rig.vehicle.repository.files[path] = bytes(len(rig.vehicle.repository.files[path]))
    rig.desire(rig.vehicle.second, 1)
    slot = rig.until("refused", rig.vehicle.second)
    assert slot.error is not None and (slot.error.code, slot.running) == ("trust-refused", rig.vehicle.first)
    assert outcome_of(rig.vehicle.store.slot(SLOT).outcomes, rig.vehicle.second) is not None


def test_unsigned_today_is_tried_again_with_the_next_desired_version(build: Build) -> None:
    rig = build()
    files = dict(rig.vehicle.repository.files)
    third = rig.vehicle.publish(3)
    newest, rig.vehicle.repository.files = rig.vehicle.repository.files, files
    rig.desire(third, 1)
    rig.until("refused", third)
    assert not rig.vehicle.store.slot(SLOT).outcomes
    rig.vehicle.repository.files = newest
    rig.desire(third, 2)
    rig.until("idle", third)


def test_an_unhealthy_release_is_rolled_back(build: Build) -> None:
    rig = build(errors_of=lambda ref: 50 if ref.release == 2 else 0)
    rig.desire(rig.vehicle.second, 1)
    slot = rig.until("rolled-back", rig.vehicle.second)
    assert slot.error is not None and (slot.error.code, slot.running) == ("health-failed", rig.vehicle.first)
    assert rig.running == rig.vehicle.first
    rig.desire(rig.vehicle.second, 2)
    third = rig.vehicle.publish(3)
    rig.desire(third, 3)
    rig.until("idle", third)


def test_a_release_that_drive_cannot_load_is_rolled_back(build: Build) -> None:
    rig = build(loads=lambda ref: ref.release != 2)
    rig.desire(rig.vehicle.second, 1)
    assert rig.until("rolled-back", rig.vehicle.second).running == rig.vehicle.first


def test_a_newer_wish_replaces_a_download_under_way(build: Build) -> None:
    rig = build()
    third = rig.vehicle.publish(3)
    seen: list[str] = []

    def loses(path: str, n: int) -> bool:
        if path.startswith("targets/traffic-sign/2/") and not seen:
            seen.append(path)
            rig.desire(third, 2)
        return bool(seen) and path.startswith("targets/traffic-sign/2/")

    rig.vehicle.server.loses = loses
    rig.desire(rig.vehicle.second, 1)
    rig.until("idle", third)
    assert seen


def test_a_silent_repository_makes_it_wait_and_desired_wakes_it(build: Build) -> None:
    rig = build()
    rig.vehicle.server.loses = lambda path, n: True
    rig.desire(rig.vehicle.second, 1)
    slot = rig.until("waiting", rig.vehicle.second)
    assert slot.error is not None and slot.error.code == "fetch-interrupted"
    rig.vehicle.server.loses = lambda path, n: False
    rig.desire(rig.vehicle.second, 1)
    rig.until("idle", rig.vehicle.second)


def test_a_wish_that_comes_again_repeats_what_the_lost_connection_took(build: Build) -> None:
    rig = build()
    rig.vehicle.fetcher._timeout_s = rig.vehicle.fetcher._give_up_s = 1e9
    lost: list[str] = []

    def loses(path: str, n: int) -> bool:
        if path.startswith("targets/traffic-sign/2/") and n == 3 and not lost:
            lost.append(path)
            rig.desire(rig.vehicle.second, 1)
            return True
        return False

    rig.vehicle.server.loses = loses
    rig.desire(rig.vehicle.second, 1)
    rig.until("idle", rig.vehicle.second)
    assert lost


def test_reports_that_fail_change_nothing(build: Build) -> None:
    failures: list[str] = []

    def fail(slot: ReportedSlot) -> None:
        if slot.state != "idle":
            failures.append(slot.state)
            raise OSError("the broker is gone")

    rig = build(report_hook=fail)
    rig.desire(rig.vehicle.second, 1)
    rig.until("idle", rig.vehicle.second)
    assert "trial" in failures and rig.vehicle.store.slot(SLOT).confirmed == rig.vehicle.second


def test_a_full_disk_waits_and_the_old_version_runs(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = build()
    real, full = os.mkdir, [True]

    def mkdir(path: os.PathLike[str], *args: int) -> None:
        if full[0] and ".tmp-" in os.fspath(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, *args)

    monkeypatch.setattr(os, "mkdir", mkdir)
    rig.desire(rig.vehicle.second, 1)
    slot = rig.until("waiting", rig.vehicle.second)
    assert slot.error is not None and (slot.error.code, slot.running) == ("disk-full", rig.vehicle.first)
    full[0] = False
    rig.desire(rig.vehicle.second, 1)
    rig.until("idle", rig.vehicle.second)


def test_drive_that_dies_of_a_release_gets_the_confirmed_one_back(build: Build) -> None:
    rig = build()
    slow = rig.vehicle.second
    rig.desire(slow, 1, Policy(health_window_s=600.0))
    rig.until("trial")
    for _ in range(3):
        rig.start_drive()
    slot = rig.until("rolled-back", slow)
    assert slot.running == rig.vehicle.first and slot.error is not None and "too often" in slot.error.detail


def test_what_does_not_concern_this_vehicle_is_ignored(build: Build) -> None:
    rig = build()
    rig.service.on_desired(Desired(version=1, slots={"unknown": rig.vehicle.second}))
    rig.desire(rig.vehicle.second, 1)
    rig.until("idle", rig.vehicle.second)
