"""The update service with a candidate in the shadow: fetched, tested and kept like any release, and out of its way."""

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from roadloop_agent.ipc import ShadowSums
from roadloop_agent.update.selftest import Check
from roadloop_models.contract.messages import Desired, ReleaseRef, ShadowPolicy, ShadowReport
from roadloop_models.errors import DisagreementError, GoldenMismatchError
from tests.fakes.repository import utc_now
from tests.fakes.staged_vehicle import SLOT, StagedVehicle
from tests.fakes.update_rig import DEADLINE_S, POLICY, Rig

pytestmark = pytest.mark.usefixtures("fast_disk")

Build = Callable[..., Rig]
SHARE = ShadowPolicy(max_cpu_share=0.1)


@pytest.fixture
def build(tmp_path: Path, start: Callable[[Rig], Rig]) -> Build:
    """Makes a rig of the same vehicle, whose rig before is stopped."""
    rigs: list[Rig] = []
    vehicle = StagedVehicle(tmp_path, utc_now())

    def make(**changes: object) -> Rig:
        for rig in rigs:
            rig.service.stop()
        vehicle.restart()
        rigs.append(start(Rig(vehicle, **changes)))  # type: ignore[arg-type]
        return rigs[-1]

    return make


def wish(
    rig: Rig,
    version: int,
    candidate: ReleaseRef | None,
    runs: ReleaseRef | None = None,
    max_disagreement: float | None = None,
) -> None:
    """What slot and shadow shall run."""
    rig.service.on_desired(
        Desired(
            version=version,
            slots={SLOT: runs or rig.vehicle.first},
            shadows={} if candidate is None else {SLOT: candidate},
            shadow_policy=SHARE,
            policy=msgspec.structs.replace(POLICY, max_disagreement=max_disagreement),
        )
    )


def until(what: str, reached: Callable[[], bool]) -> None:
    until_s = time.monotonic() + DEADLINE_S
    while not reached():
        assert time.monotonic() < until_s, f"waited in vain: {what}"
        time.sleep(0.01)


def asked(rig: Rig) -> list[ReleaseRef | None]:
    return [each.ref for each in rig.wishes]


def say(rig: Rig, candidate: ReleaseRef, frames: int, disagreed: int = 0, run: str = "a") -> None:
    """Drive's word."""
    report = ShadowReport(ref=candidate, state="running", frames=frames, disagreed=disagreed)
    rig.service.on_shadow(ShadowSums(boot=1, slot=SLOT, run=run, incumbent=rig.vehicle.first, report=report))


def said(rig: Rig) -> ShadowReport | None:
    """The last word of the vehicle."""
    while not rig.reports.empty():
        rig.history.append(rig.reports.get())
    return rig.history[-1].shadow if rig.history else None


def test_a_candidate_is_fetched_tested_and_kept_and_the_slot_runs_on(build: Build) -> None:
    checks: list[Check] = []
    rig = build(selftest=lambda check, cancelled: checks.append(check))
    second = rig.vehicle.second
    wish(rig, 1, second)
    until("drive is asked", lambda: second in asked(rig))
    assert rig.wishes[-1].max_cpu_share == SHARE.max_cpu_share
    assert Path(rig.wishes[-1].bundle_dir) == rig.vehicle.store.version_directory(second)
    assert (rig.vehicle.store.version_directory(second) / "model.onnx").exists() and len(checks) == 1
    say(rig, second, 7)
    until("it is reported", lambda: (report := said(rig)) is not None and report.frames == 7)
    assert rig.running == rig.vehicle.first and rig.vehicle.store.slot(SLOT).trial is None
    assert {slot.state for slot in rig.history} == {"idle"}


def test_its_files_go_when_nobody_wants_it_any_more(build: Build) -> None:
    rig = build()
    second = rig.vehicle.second
    wish(rig, 1, second)
    until("drive is asked", lambda: second in asked(rig))
    third = rig.vehicle.publish(3)
    wish(rig, 2, None, runs=third)
    until("the update is over", lambda: rig.vehicle.store.slot(SLOT).confirmed == third)
    assert asked(rig)[-1] is None
    until("its files are gone", lambda: not rig.vehicle.store.version_directory(second).exists())


def test_garbage_is_collected_around_it(build: Build) -> None:
    rig = build()
    second = rig.vehicle.second
    wish(rig, 1, second)
    until("drive is asked", lambda: second in asked(rig))
    third, fourth = rig.vehicle.publish(3), rig.vehicle.publish(4)
    for version, runs in ((2, third), (3, fourth)):
        wish(rig, version, second, runs=runs)
        until("the update is over", lambda runs=runs: rig.vehicle.store.slot(SLOT).confirmed == runs)  # type: ignore[misc]
    until("the first release is gone", lambda: not rig.vehicle.store.version_directory(rig.vehicle.first).exists())
    assert rig.vehicle.store.version_directory(second).exists()


def test_a_candidate_that_fails_its_golden_vectors_never_reaches_drive(build: Build) -> None:
    def fails(check: Check, cancelled: Callable[[], bool]) -> None:
        raise GoldenMismatchError("row 3 differs")

    rig = build(selftest=fails)
    wish(rig, 1, rig.vehicle.second)
    until("it is refused", lambda: (report := said(rig)) is not None and report.state == "refused")
    report = said(rig)
    assert report is not None and report.error is not None and report.error.code == GoldenMismatchError.code
    assert rig.vehicle.second not in asked(rig)
    assert rig.vehicle.store.slot(SLOT).outcomes == (), "as an update it has not been tried"


def test_after_a_restart_without_a_network_it_goes_on_and_nothing_is_counted_twice(build: Build) -> None:
    rig = build()
    second = rig.vehicle.second
    wish(rig, 1, second)
    until("drive is asked", lambda: second in asked(rig))
    say(rig, second, 40)
    until("it is counted", lambda: (report := said(rig)) is not None and report.frames == 40)
    again = build()
    until("drive is asked again", lambda: second in asked(again))
    say(again, second, 45)
    say(again, second, 5, run="b")
    until("it adds up", lambda: again.service._shadows.seen()[SLOT].frames == 50)


def test_an_update_to_the_candidate_ends_its_shadow(build: Build) -> None:
    rig = build()
    second = rig.vehicle.second
    wish(rig, 1, second)
    until("drive is asked", lambda: second in asked(rig))
    say(rig, second, 60)
    wish(rig, 2, second, runs=second)
    until("the update is over", lambda: rig.vehicle.store.slot(SLOT).confirmed == second)
    assert asked(rig)[-1] is None


def test_a_release_that_disagreed_too_often_in_the_shadow_never_switches(build: Build) -> None:
    rig = build()
    second = rig.vehicle.second
    wish(rig, 1, second)
    until("drive is asked", lambda: second in asked(rig))
    say(rig, second, 100, disagreed=30)
    until("it is counted", lambda: (report := said(rig)) is not None and report.frames == 100)
    wish(rig, 2, None, runs=second, max_disagreement=0.1)
    slot = rig.until("refused", second)
    assert slot.error is not None and slot.error.code == DisagreementError.code
    assert rig.vehicle.store.slot(SLOT).confirmed == rig.vehicle.first


def test_what_the_disk_does_not_take_is_not_remembered_and_stops_nobody(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = build()
    (rig.vehicle.directory / "state" / "shadows.json").mkdir()
    wish(rig, 1, rig.vehicle.second)
    until("drive is asked", lambda: rig.vehicle.second in asked(rig))
    assert not list((rig.vehicle.directory / "state" / "shadows.json").iterdir())


def test_a_file_that_is_damaged_begins_anew(build: Build) -> None:
    rig = build()
    wish(rig, 1, rig.vehicle.second)
    until("drive is asked", lambda: rig.vehicle.second in asked(rig))
    rig.service.stop()
    (rig.vehicle.directory / "state" / "shadows.json").write_bytes(b"\xff{")
    again = build()
    assert again.service._shadows.wanted() == []
    wish(again, 1, again.vehicle.second)
    until("drive is asked", lambda: again.vehicle.second in asked(again))
