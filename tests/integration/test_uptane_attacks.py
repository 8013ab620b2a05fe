"""The attacks that Uptane names, on what a vehicle really verifies with: old or new runs, and what was refused is said.

Of images alone there is more in test_update_delivery.py; eavesdropping is met in test_sealed_delivery.py.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner

from roadloop_agent.update.check import CheckSchedule, DirectorCheck
from roadloop_agent.update.refused import MetadataError
from roadloop_agent.update.state import Trial
from roadloop_agent.update.store import open_version
from roadloop_models.contract.messages import Desired, ErrorInfo, Policy, ReleaseRef
from roadloop_models.errors import BundleError, FetchInterruptedError, RetryLaterError, TrustError
from tests.fakes.opaque_bundles import VARIANT, opaque_bundle, release_ref
from tests.fakes.repository import VAN, utc_now
from tests.fakes.staged_vehicle import SLOT, StagedVehicle

pytestmark = pytest.mark.usefixtures("fast_disk")

NOW = utc_now()
TIMESTAMP = "director/metadata/timestamp.json"
OTHER = "van-2"


@pytest.fixture
def vehicle(tmp_path: Path) -> StagedVehicle:
    """Runs release 1, is assigned release 2, and has verified that assignment."""
    made = StagedVehicle(tmp_path, NOW)
    made.obliging = False
    made.assign(made.second)
    made.director.refresh()
    return made


def seat_files(vehicle: StagedVehicle, name: str = VAN) -> dict[str, bytes]:
    return vehicle.repository.director.seats[name].files


def fetch(vehicle: StagedVehicle, ref: ReleaseRef) -> Path:
    return vehicle.delivery.fetch(ref, VARIANT, slot=SLOT)


def refused(vehicle: StagedVehicle, match: str, ref: ReleaseRef | None = None) -> None:
    """The release is refused, and what ran before still runs."""
    with pytest.raises(TrustError, match=match):
        fetch(vehicle, ref or vehicle.second)
    runs(vehicle, vehicle.first)


def runs(vehicle: StagedVehicle, ref: ReleaseRef) -> None:
    version = vehicle.store.load_for_start(SLOT)
    assert version.ref == ref
    open_version(version.directory, version.ref, VARIANT)


def confirmed(vehicle: StagedVehicle, ref: ReleaseRef) -> None:
    """Fetch, install, and keep."""
    vehicle.assign(ref)
    vehicle.store.install(SLOT, ref, fetch(vehicle, ref))
    vehicle.store.begin_trials({SLOT: Trial(ref, Policy())})
    vehicle.store.confirm({SLOT: ref})


def test_what_both_agree_on_is_taken(vehicle: StagedVehicle) -> None:
    open_version(fetch(vehicle, vehicle.second), vehicle.second, VARIANT)


# Requests that are dropped, answers that are slow, files that are missing.


def test_drop_request_is_noticed_on_the_vehicle_and_reported(vehicle: StagedVehicle) -> None:
    told: list[tuple[int, ErrorInfo | None]] = []
    schedule = CheckSchedule(lambda: 0.0)
    now = [0.0]
    check = DirectorCheck(
        lambda: vehicle.director.refresh().version,
        vehicle.director.refresh,
        lambda version, error: told.append((version, error)),
        schedule,
        mono=lambda: now[0],
    )
    check.soon()
    assert check.is_due()
    check.run()
    vehicle.assign(vehicle.publish(3))
    vehicle.server.loses = lambda path, n: path.startswith("director/")
    now[0] = 8 * 3600.0
    assert check.is_due()
    check.run()
    _, before, after = told
    assert before[1] is None and after[0] == before[0], "it goes on saying what it has seen, which falls behind"
    assert after[1] is not None and after[1].code == "fetch-interrupted"
    runs(vehicle, vehicle.first)


@pytest.mark.parametrize(("pause_s", "ends"), [(25.0, True), (61.0, False)])
def test_slow_retrieval_ends_at_the_give_up_time(vehicle: StagedVehicle, pause_s: float, ends: bool) -> None:
    model = vehicle.repository.url(f"{vehicle.second.task}/2/model.onnx")
    sent_s = [vehicle.inbox.now_s]

    def slow(path: str, n: int) -> bool:
        if path != model:
            return False
        if vehicle.inbox.now_s - sent_s[0] < pause_s:
            return True
        sent_s[0] = vehicle.inbox.now_s
        return False

    vehicle.server.loses = slow
    if ends:
        open_version(fetch(vehicle, vehicle.second), vehicle.second, VARIANT)
        return
    with pytest.raises(FetchInterruptedError, match="no block came"):
        fetch(vehicle, vehicle.second)
    assert vehicle.inbox.now_s < 120
    runs(vehicle, vehicle.first)


def test_partial_bundle_is_not_installed(vehicle: StagedVehicle) -> None:
    del vehicle.repository.files[vehicle.repository.url(f"{vehicle.second.task}/2/golden.npz")]
    with pytest.raises(RetryLaterError, match="no such file"):
        fetch(vehicle, vehicle.second)
    with pytest.raises(BundleError, match="golden"):
        vehicle.store.install(SLOT, vehicle.second, vehicle.delivery.directory(vehicle.second))
    runs(vehicle, vehicle.first)


# What is old.


def test_freeze_ends_with_the_life_of_the_timestamp(vehicle: StagedVehicle) -> None:
    vehicle.clock = lambda: NOW + timedelta(days=1, seconds=1)
    refused(vehicle, "expired at .* clock is wrong")


def test_freeze_of_a_vehicle_whose_clock_was_set_back_ends_with_the_directors_word(vehicle: StagedVehicle) -> None:
    vehicle.restart()
    vehicle.clock = lambda: datetime.fromtimestamp(0, UTC)
    vehicle.repository.director.clock = lambda: NOW + timedelta(days=2)
    with pytest.raises(MetadataError, match="of the director is expired at"):
        vehicle.director.refresh()
    refused(vehicle, "is expired at")


def test_freeze_by_a_replayed_word_on_the_time_is_refused(vehicle: StagedVehicle) -> None:
    vehicle.restart()
    said = vehicle.repository.director.time_statement(VAN, "0" * 32)
    vehicle.repository.director.time_statement = lambda vehicle, nonce: said  # type: ignore[method-assign]
    refused(vehicle, "answers another question")


def test_freeze_by_another_vehicles_word_on_the_time_is_refused(vehicle: StagedVehicle) -> None:
    vehicle.restart()
    honest = vehicle.repository.director.time_statement
    vehicle.repository.director.time_statement = lambda vehicle, nonce: honest(OTHER, nonce)  # type: ignore[method-assign]
    refused(vehicle, "answers another question")


def test_a_word_on_the_time_that_another_key_signed_is_refused(vehicle: StagedVehicle) -> None:
    vehicle.restart()
    vehicle.repository.director.signers["timestamp"] = CryptoSigner.generate_ed25519()
    refused(vehicle, "signed by 0/1")


def test_rollback_of_the_assignment_is_refused(vehicle: StagedVehicle) -> None:
    old = dict(seat_files(vehicle))
    vehicle.assign(vehicle.publish(3))
    vehicle.director.refresh()
    vehicle.repository.director.seats[VAN].files = old
    refused(vehicle, "version")


@pytest.mark.parametrize("lost", ["metadata.json", "floor.json"])
@pytest.mark.parametrize("damage", ["emptied", "flipped"])
def test_rollback_is_refused_where_half_of_the_memory_is_lost(vehicle: StagedVehicle, lost: str, damage: str) -> None:
    old = dict(seat_files(vehicle))
    vehicle.assign(vehicle.publish(3))
    vehicle.director.refresh()
    path = vehicle.directory / "state" / "director" / lost
    content = path.read_bytes()
    path.write_bytes(b"" if damage == "emptied" else content[:100] + bytes([content[100] ^ 1]) + content[101:])
    vehicle.restart()
    vehicle.repository.director.seats[VAN].files = old
    refused(vehicle, "version")


def test_a_replayed_assignment_is_refused(vehicle: StagedVehicle) -> None:
    """Signed anew under a higher version, as by a director whose database was restored and that forgot to count on."""
    vehicle.assign(vehicle.publish(3))
    vehicle.director.refresh()
    vehicle.repository.assign(VAN, Desired(version=1, slots={SLOT: vehicle.second}))
    refused(vehicle, "assignment 1 is offered, 2 was seen before: replayed")
    vehicle.assign(vehicle.second)
    fetch(vehicle, vehicle.second)


# What never ends, and what does not belong together.


@pytest.mark.parametrize("size_bytes", [600_000, 1 << 40])
@pytest.mark.parametrize("part", ["timestamp", "snapshot", "targets", "root", "time"])
def test_endless_data_of_the_director_is_refused(vehicle: StagedVehicle, part: str, size_bytes: int) -> None:
    vehicle.restart()
    vehicle.repository.director.sign_root()
    vehicle.assign(vehicle.second)
    vehicle.server.announces = lambda path, size: size_bytes if path.startswith("director/") and part in path else size
    refused(vehicle, "are announced")


def test_mixed_bundles_a_forged_wish_for_a_signed_release_is_refused(vehicle: StagedVehicle) -> None:
    """Whoever owns the broker can publish a desired state, and name any release: the director does not."""
    third = vehicle.publish(3)
    refused(vehicle, "the director does not name it for slot 'sign'", third)


def test_mixed_bundles_a_release_for_another_slot_is_refused(vehicle: StagedVehicle) -> None:
    vehicle.counter += 1
    vehicle.repository.assign(VAN, Desired(version=vehicle.counter, slots={"other": vehicle.second}))
    refused(vehicle, "the director does not name it for slot 'sign'")


def test_mixed_bundles_a_candidate_for_the_shadow_does_not_drive(vehicle: StagedVehicle) -> None:
    vehicle.counter += 1
    shadows = Desired(version=vehicle.counter, slots={}, shadows={SLOT: vehicle.second})
    vehicle.repository.assign(VAN, shadows)
    refused(vehicle, "the director does not name it for slot 'sign'")
    vehicle.delivery.fetch(vehicle.second, VARIANT, slot=SLOT, shadow=True)


def test_mixed_bundles_another_manifest_than_the_directors_is_refused(vehicle: StagedVehicle) -> None:
    refused(vehicle, "names another manifest", msgspec.structs.replace(vehicle.second, manifest_sha256="0" * 64))


def test_mix_and_match_of_the_directors_metadata_is_refused(vehicle: StagedVehicle) -> None:
    """Today's timestamp with yesterday's snapshot in the place of today's."""
    seat = vehicle.repository.director.seats[VAN]
    before = seat.snapshot.signed.version
    vehicle.assign(vehicle.publish(3))
    seat.files[f"director/metadata/{before + 1}.snapshot.json"] = seat.files[
        f"director/metadata/{before}.snapshot.json"
    ]
    refused(vehicle, "Expected snapshot version")


# What is not signed, or not for this vehicle.


def test_arbitrary_software_that_the_director_names_is_refused(vehicle: StagedVehicle) -> None:
    unsigned = release_ref(opaque_bundle(vehicle.directory / "made-9", "v9"), 9)
    vehicle.assign(unsigned)
    refused(vehicle, "not among the signed targets", unsigned)


def test_arbitrary_software_in_the_place_of_a_file_is_refused(vehicle: StagedVehicle) -> None:
    path = vehicle.repository.url(f"{vehicle.second.task}/2/model.onnx")
    vehicle.repository.files[path] = bytes(len(vehicle.repository.files[path]))
    refused(vehicle, "in its place")


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_an_assignment_that_another_key_signed_is_refused(vehicle: StagedVehicle, role: str) -> None:
    vehicle.repository.director.signers[role] = CryptoSigner.generate_ed25519()
    vehicle.assign(vehicle.second)
    refused(vehicle, "signed by 0/1")


def test_another_vehicles_director_metadata_is_refused_and_does_no_harm(vehicle: StagedVehicle) -> None:
    director = vehicle.repository.director
    for version in range(1, 9):
        vehicle.repository.assign(OTHER, Desired(version=version, slots={SLOT: vehicle.second}))
    mine = director.seats[VAN].files
    director.seats[VAN].files = director.seats[OTHER].files
    refused(vehicle, "is for vehicle 'van-2', this is 'van-1'")
    director.seats[VAN].files = mine
    vehicle.restart()
    assert director.seats[OTHER].targets.signed.version > director.seats[VAN].targets.signed.version
    fetch(vehicle, vehicle.second)


def test_another_vehicles_timestamp_alone_is_refused_and_does_no_harm(vehicle: StagedVehicle) -> None:
    """It may lead to a snapshot of the same number, which then is this vehicle's own."""
    director = vehicle.repository.director
    vehicle.repository.assign(OTHER, Desired(version=1, slots={SLOT: vehicle.second}))
    other, mine = director.seats[OTHER], director.seats[VAN]
    other.timestamp.signed.version = 90
    other.snapshot.signed.version = other.targets.signed.version = mine.targets.signed.version - 1
    director.publish(OTHER)
    assert other.snapshot.signed.version == mine.snapshot.signed.version
    honest, mine.files[TIMESTAMP] = mine.files[TIMESTAMP], other.files[TIMESTAMP]
    refused(vehicle, "timestamp of the director is for vehicle 'van-2'")
    mine.files[TIMESTAMP] = honest
    vehicle.restart()
    fetch(vehicle, vehicle.second)


# Keys that are stolen.


def test_a_stolen_director_key_cannot_change_a_release(vehicle: StagedVehicle) -> None:
    """It names what it wants under a signed release's number: that is signed by keys which are offline."""
    forged = release_ref(opaque_bundle(vehicle.directory / "forged", "v2"), 2)
    forged = msgspec.structs.replace(forged, manifest_sha256="f" * 64)
    vehicle.assign(forged)
    refused(vehicle, "the signed SHA-256 is", forged)


def test_a_stolen_director_key_cannot_lie_about_a_length(vehicle: StagedVehicle) -> None:
    target = vehicle.repository.director.seats[VAN].targets.signed.targets[f"{vehicle.second.task}/2/manifest.json"]
    target.length += 1
    vehicle.repository.director.publish(VAN)
    refused(vehicle, "names another length")


def test_a_stolen_director_key_cannot_choose_an_old_release(vehicle: StagedVehicle) -> None:
    """The release counter: no further back than what is on the disk."""
    third, fourth = vehicle.publish(3), vehicle.publish(4)
    confirmed(vehicle, third)
    confirmed(vehicle, fourth)
    vehicle.assign(vehicle.second)
    with pytest.raises(MetadataError, match="release 4 was confirmed before"):
        fetch(vehicle, vehicle.second)
    vehicle.assign(third)
    fetch(vehicle, third)  # going back to what ran before is what a rollout that is rolled back asks for
    runs(vehicle, fourth)


def test_a_stolen_director_key_is_replaced_whatever_it_signed(vehicle: StagedVehicle) -> None:
    """It has signed the highest versions and counters there are; a root with new keys makes all begin again."""
    seat = vehicle.repository.director.seats[VAN]
    for metadata in (seat.timestamp, seat.targets):
        metadata.signed.version = 1 << 50
    vehicle.repository.assign(VAN, Desired(version=1 << 50, slots={SLOT: vehicle.second}))
    vehicle.director.refresh()
    vehicle.repository.director.sign_root(new_keys=True)
    for metadata in (seat.timestamp, seat.targets):
        metadata.signed.version = 7
    vehicle.assign(vehicle.second)
    vehicle.restart()
    fetch(vehicle, vehicle.second)


def test_a_stolen_director_key_cannot_move_the_time_for_good(vehicle: StagedVehicle) -> None:
    director = vehicle.repository.director
    vehicle.restart()
    director.clock = lambda: NOW + timedelta(days=2000)
    refused(vehicle, "its root has expired by then")
    director.clock = lambda: NOW + timedelta(days=300)
    honest = director.now
    director.now = NOW + timedelta(days=300)
    vehicle.assign(vehicle.second)
    vehicle.director.refresh()
    director.now, director.clock = honest, lambda: NOW
    director.sign_root(new_keys=True)
    vehicle.assign(vehicle.second)
    vehicle.restart()
    fetch(vehicle, vehicle.second)
