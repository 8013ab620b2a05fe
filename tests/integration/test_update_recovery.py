"""The agent's link is killed in every state of an update; after the restart the update ends as it should."""

import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from roadloop_agent.update.store import open_version
from roadloop_models.contract.messages import ReleaseRef, ReportedSlot
from tests.fakes.injection import killed_at
from tests.fakes.opaque_bundles import VARIANT
from tests.fakes.repository import utc_now
from tests.fakes.staged_vehicle import SLOT, StagedVehicle
from tests.fakes.update_rig import Rig


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(work: Callable[[], None]) -> None:
    """Run `work` in a child that ends by SIGKILL."""
    child = os.fork()
    if child == 0:
        try:
            work()
            threading.Event().wait(30.0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, "the child outlived its death"


@pytest.fixture
def vehicle(tmp_path: Path) -> StagedVehicle:
    return StagedVehicle(tmp_path, utc_now())


def while_state(state: str) -> Callable[[Rig], None]:
    def prepare(rig: Rig) -> None:
        def report(slot: ReportedSlot) -> None:
            if slot.state == state:
                die()

        rig.report_hook = report

    return prepare


def while_switching(rig: Rig) -> None:
    def switch(ref: ReleaseRef) -> None:
        if ref.release == 2:
            die()

    rig.switch_hook = switch


def while_testing(rig: Rig) -> None:
    rig.service._preparation._selftest = lambda check, cancelled: die()


def while_confirming(rig: Rig) -> None:
    rig.vehicle.store.confirm = lambda refs: die()  # type: ignore[method-assign, assignment, return-value]


def after_confirming(rig: Rig) -> None:
    real = rig.vehicle.store.confirm

    def confirm(refs: Mapping[str, ReleaseRef]) -> None:
        real(refs)
        die()

    rig.vehicle.store.confirm = confirm  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize(
    "prepare",
    [
        while_state("fetching"),
        while_state("testing"),
        while_testing,
        while_state("installing"),
        while_switching,
        while_state("trial"),
        while_confirming,
        after_confirming,
    ],
    ids=[
        "fetching",
        "before-testing",
        "testing",
        "installing",
        "switching",
        "trial",
        "before-confirming",
        "after-confirming",
    ],
)
def test_killed_while(vehicle: StagedVehicle, prepare: Callable[[Rig], None]) -> None:
    def first_life() -> None:
        rig = Rig(vehicle)
        prepare(rig)
        rig.start()
        rig.desire(vehicle.second, 1)

    killed(first_life)
    vehicle.restart()
    version = vehicle.store.load_for_start(SLOT)
    open_version(version.directory, version.ref, VARIANT)
    rig = Rig(vehicle)
    rig.start()
    rig.desire(vehicle.second, 1)
    try:
        rig.until("idle", vehicle.second)
    finally:
        rig.service.stop()
    assert vehicle.store.slot(SLOT).confirmed == vehicle.second and rig.running == vehicle.second


@pytest.mark.parametrize("arrived", [1, 4, 7])
def test_killed_in_a_download_resumes_with_the_missing_blocks(vehicle: StagedVehicle, arrived: int) -> None:
    model = vehicle.repository.url("traffic-sign/2/model.onnx")

    def first_life() -> None:
        vehicle.server.loses = lambda path, n: path == model and n >= arrived
        rig = Rig(vehicle)

        def report(slot: ReportedSlot) -> None:
            if slot.state == "waiting":  # the blocks that came are on disk; the others never will be
                die()

        rig.report_hook = report
        rig.start()
        rig.desire(vehicle.second, 1)

    killed(first_life)
    vehicle.restart()
    rig = Rig(vehicle)
    rig.start()
    rig.desire(vehicle.second, 1)
    try:
        rig.until("idle", vehicle.second)
    finally:
        rig.service.stop()
    assert sorted(vehicle.server.served[model]) == list(range(arrived, 8))


def test_killed_while_taking_back_does_not_try_again(vehicle: StagedVehicle) -> None:
    def first_life() -> None:
        rig = Rig(vehicle, errors_of=lambda ref: 50 if ref.release == 2 else 0)
        real = vehicle.store.take_back

        def take_back(*arguments: object) -> None:
            real(*arguments)  # type: ignore[arg-type]
            die()

        vehicle.store.take_back = take_back  # type: ignore[method-assign, assignment]
        rig.start()
        rig.desire(vehicle.second, 1)

    killed(first_life)
    vehicle.restart()
    rig = Rig(vehicle)
    rig.start()
    rig.desire(vehicle.second, 1)
    try:
        slot = rig.until("rolled-back", vehicle.second)
    finally:
        rig.service.stop()
    assert slot.running == vehicle.first and vehicle.server.requests == []


def test_a_kill_at_any_call_of_a_delivery_leaves_it_possible(
    vehicle: StagedVehicle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metadata, floor, parts and staging: whatever is half written, the next delivery ends well."""
    monkeypatch.setattr(os, "fsync", os.fstat)
    third = vehicle.publish(3)

    def deliver() -> None:
        vehicle.delivery.fetch(third, VARIANT, slot=SLOT)

    state = vehicle.directory / "state"
    points = 0
    for number in range(1, 1000):
        vehicle.restart()
        dead = killed_at(number, "before", deliver)
        points += dead
        vehicle.restart()
        open_version(vehicle.delivery.fetch(third, VARIANT, slot=SLOT), third, VARIANT)
        vehicle.delivery.discard([])
        for path in sorted((state / "trust").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        if not dead:
            break
    assert points > 20
