"""A release that is installed waits for its moment: consent from a real file, over restarts, and what ends the wait."""

from collections.abc import Callable
from pathlib import Path

import pytest

from roadloop_agent.update.conditions import Facts
from roadloop_agent.update.consent import Consents, Word
from roadloop_agent.update.state import outcome_of
from roadloop_models.contract.messages import Policy, ReleaseRef, SwitchWhen
from tests.fakes.repository import utc_now
from tests.fakes.staged_vehicle import SLOT, StagedVehicle
from tests.fakes.update_rig import Rig

pytestmark = pytest.mark.usefixtures("fast_disk")

ASKING = Policy(health_window_s=0.05, max_error_rate=0.1, switch_when=SwitchWhen(consent=True))
Build = Callable[..., Rig]


@pytest.fixture
def vehicle(tmp_path: Path) -> StagedVehicle:
    return StagedVehicle(tmp_path, utc_now())


@pytest.fixture
def build(vehicle: StagedVehicle, start: Callable[[Rig], Rig]) -> Build:
    consents = Consents(vehicle.directory)
    return lambda **changes: start(Rig(vehicle, surroundings=lambda: Facts(consents=consents.words()), **changes))


def say(vehicle: StagedVehicle, ref: ReleaseRef, granted: bool) -> None:
    Consents(vehicle.directory).say(Word(slot=SLOT, ref=ref, granted=granted))


def test_a_release_waits_for_consent_and_then_switches(build: Build, vehicle: StagedVehicle) -> None:
    rig = build()
    rig.desire(vehicle.second, 1, ASKING)
    slot = rig.until("ready", vehicle.second)
    while not slot.waits_for:
        slot = rig.until("ready", vehicle.second)
    assert (slot.waits_for, slot.running) == ("consent", vehicle.first)
    say(vehicle, vehicle.second, granted=True)
    rig.until("idle", vehicle.second)
    assert vehicle.store.slot(SLOT).ready is None


def test_a_no_is_final_for_the_release(build: Build, vehicle: StagedVehicle) -> None:
    rig = build()
    rig.desire(vehicle.second, 1, ASKING)
    rig.until("ready", vehicle.second)
    say(vehicle, vehicle.second, granted=False)
    slot = rig.until("refused", vehicle.second)
    assert slot.error is not None and slot.error.code == "consent-refused"
    outcome = outcome_of(vehicle.store.slot(SLOT).outcomes, vehicle.second)
    assert outcome is not None and outcome.result == "refused"
    third = vehicle.publish(3)
    rig.desire(third, 2, ASKING)
    assert rig.until("ready", third).running == vehicle.first


def test_what_is_ready_needs_no_network_after_a_restart(build: Build, vehicle: StagedVehicle) -> None:
    rig = build()
    rig.desire(vehicle.second, 1, ASKING)
    rig.until("ready", vehicle.second)
    while vehicle.store.slot(SLOT).ready is None:
        rig.until("ready", vehicle.second)
    rig.service.stop()
    vehicle.restart()
    vehicle.server.loses = lambda path, n: True
    again = build()
    again.until("ready", vehicle.second)
    say(vehicle, vehicle.second, granted=True)
    again.until("idle", vehicle.second)
    assert vehicle.server.requests == [] and vehicle.store.slot(SLOT).confirmed == vehicle.second


def test_garbage_collection_keeps_what_is_ready(build: Build, vehicle: StagedVehicle) -> None:
    rig = build()
    rig.desire(vehicle.second, 1, ASKING)
    rig.until("ready", vehicle.second)
    rig.service.stop()
    vehicle.restart()
    vehicle.store.collect_garbage()
    assert vehicle.store.version_directory(vehicle.second).is_dir()


def test_a_wish_for_what_runs_ends_the_wait(build: Build, vehicle: StagedVehicle) -> None:
    rig = build()
    rig.desire(vehicle.second, 1, ASKING)
    rig.until("ready", vehicle.second)
    rig.desire(vehicle.first, 2, ASKING)
    rig.until("idle", vehicle.first)
    assert vehicle.store.slot(SLOT).ready is None
