"""From a wish to verified files: what is fetched, what is resumed, and every attack that must be refused."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from roadloop_agent.update.refused import MetadataError
from roadloop_agent.update.store import open_version
from roadloop_agent.update.trust import verify_provisioned
from roadloop_models.contract.messages import ReleaseRef
from roadloop_models.errors import (
    BundleError,
    ConfigError,
    DiskFullError,
    FetchInterruptedError,
    RetryLaterError,
    TrustError,
    VariantMissingError,
)
from tests.fakes.opaque_bundles import VARIANT, opaque_bundle, release_ref
from tests.fakes.repository import utc_now
from tests.fakes.staged_vehicle import SLOT, StagedVehicle

pytestmark = pytest.mark.usefixtures("fast_disk")

NOW = utc_now()
MODEL = "model.onnx"
BLOCKS = 8 + 1 + 1
"""Of release 2: the model, the golden file and, first of all, the manifest; the labels are those of release 1."""


@pytest.fixture
def vehicle(tmp_path: Path) -> StagedVehicle:
    return StagedVehicle(tmp_path, NOW)


def model_path(vehicle: StagedVehicle, ref: ReleaseRef) -> str:
    return vehicle.repository.url(f"{ref.task}/{ref.release}/{MODEL}")


def refused(vehicle: StagedVehicle, kind: type[TrustError], match: str, ref: ReleaseRef | None = None) -> None:
    """The release is refused, and what ran before still runs."""
    with pytest.raises(TrustError, match=match) as caught:
        vehicle.delivery.fetch(ref or vehicle.second, VARIANT, slot=SLOT)
    assert type(caught.value) is kind
    version = vehicle.store.load_for_start(SLOT)
    assert version.ref == vehicle.first
    open_version(version.directory, version.ref, VARIANT)


def test_a_release_is_fetched_and_verified(vehicle: StagedVehicle) -> None:
    progress: list[tuple[int, int]] = []
    directory = vehicle.delivery.fetch(vehicle.second, VARIANT, slot=SLOT, progress=lambda *args: progress.append(args))
    bundle = open_version(directory, vehicle.second, VARIANT)
    assert bundle.path(MODEL).read_bytes() == (vehicle.bundles[2].directory / MODEL).read_bytes()
    assert not (directory / "model.tflite").exists() and not (directory / "training.bin").exists()
    assert progress[-1] == (BLOCKS - 1, BLOCKS - 1) and [done for done, _ in progress[2:]] == list(range(1, BLOCKS))
    assert vehicle.server.blocks("targets/") == BLOCKS, "the labels are taken from release 1"


def test_lost_blocks_are_asked_for_again(vehicle: StagedVehicle) -> None:
    lost: set[tuple[str, int]] = set()

    def loses(path: str, n: int) -> bool:
        first = (path, n) not in lost
        lost.add((path, n))
        return first

    vehicle.server.loses = loses
    open_version(vehicle.delivery.fetch(vehicle.second, VARIANT, slot=SLOT), vehicle.second, VARIANT)


@pytest.mark.parametrize("arrived", [0, 1, 5, 7])
def test_an_interrupted_download_resumes_with_the_missing_blocks(vehicle: StagedVehicle, arrived: int) -> None:
    model = model_path(vehicle, vehicle.second)
    vehicle.server.loses = lambda path, n: path == model and n >= arrived
    with pytest.raises(FetchInterruptedError):
        vehicle.delivery.fetch(vehicle.second, VARIANT, slot=SLOT)
    vehicle.restart()
    vehicle.delivery.fetch(vehicle.second, VARIANT, slot=SLOT)
    assert sorted(vehicle.server.served[model]) == list(range(arrived, 8))


def test_what_is_complete_is_not_fetched_again(vehicle: StagedVehicle) -> None:
    vehicle.delivery.fetch(vehicle.second, VARIANT, slot=SLOT)
    vehicle.restart()
    vehicle.delivery.fetch(vehicle.second, VARIANT, slot=SLOT)
    assert vehicle.server.blocks("targets/") == 0


def test_an_older_release_that_is_installed_needs_no_download(vehicle: StagedVehicle) -> None:
    vehicle.store.install(SLOT, vehicle.second, vehicle.delivery.fetch(vehicle.second, VARIANT, slot=SLOT))
    vehicle.delivery.discard([])
    vehicle.restart()
    open_version(vehicle.delivery.fetch(vehicle.first, VARIANT, slot=SLOT), vehicle.first, VARIANT)
    assert vehicle.server.blocks("targets/") == 0 and vehicle.server.blocks("metadata/") > 0


def test_a_tampered_part_is_fetched_again_once(vehicle: StagedVehicle) -> None:
    model = model_path(vehicle, vehicle.second)
    vehicle.server.loses = lambda path, n: path == model and n >= 5
    with pytest.raises(FetchInterruptedError):
        vehicle.delivery.fetch(vehicle.second, VARIANT, slot=SLOT)
    part = next((vehicle.directory / "state" / "staging").rglob("*.part"))
    with part.open("r+b") as file:
        file.write(b"tampered")
    vehicle.restart()
    open_version(vehicle.delivery.fetch(vehicle.second, VARIANT, slot=SLOT), vehicle.second, VARIANT)
    assert sorted(vehicle.server.served[model]) == sorted([5, 6, 7, *range(8)])


def test_a_newer_wish_ends_the_download(vehicle: StagedVehicle) -> None:
    with pytest.raises(FetchInterruptedError, match="newer"):
        vehicle.delivery.fetch(
            vehicle.second, VARIANT, slot=SLOT, cancelled=lambda: vehicle.server.blocks("targets/") > 0
        )


def test_what_nobody_wants_is_removed_from_staging(vehicle: StagedVehicle) -> None:
    second = vehicle.delivery.fetch(vehicle.second, VARIANT, slot=SLOT)
    third = vehicle.delivery.fetch(vehicle.publish(3), VARIANT, slot=SLOT)
    vehicle.delivery.discard([vehicle.second])
    assert second.exists() and not third.exists()


# Attacks on what is signed.


def test_rollback_is_refused(vehicle: StagedVehicle) -> None:
    old = dict(vehicle.repository.files)
    third = vehicle.publish(3)
    vehicle.delivery.fetch(third, VARIANT, slot=SLOT)
    vehicle.repository.files = old
    refused(vehicle, MetadataError, "version")


def test_rollback_is_refused_even_where_the_client_lost_its_memory(vehicle: StagedVehicle) -> None:
    old = dict(vehicle.repository.files)
    vehicle.delivery.fetch(vehicle.publish(3), VARIANT, slot=SLOT)
    for role in ("timestamp", "snapshot", "targets"):
        (vehicle.directory / "state" / "trust" / "metadata" / f"{role}.json").write_bytes(b"")
    vehicle.restart()
    vehicle.repository.files = old
    refused(vehicle, MetadataError, "was seen before: rollback")


def test_rollback_behind_the_day_of_provisioning_is_refused(tmp_path: Path) -> None:
    vehicle = StagedVehicle(tmp_path, NOW)
    floor = vehicle.directory / "trust" / "metadata" / "timestamp.json"
    vehicle.repository.renew()
    floor.write_bytes(vehicle.repository.files["metadata/timestamp.json"])
    behind = vehicle.repository.timestamp
    behind.signed.version -= 1
    vehicle.repository._write("timestamp", "timestamp", behind)
    refused(vehicle, MetadataError, "version")


def test_a_root_that_is_held_back_is_refused(vehicle: StagedVehicle) -> None:
    vehicle.repository.rotate_root()
    vehicle.delivery.fetch(vehicle.second, VARIANT, slot=SLOT)
    for path in (vehicle.directory / "state" / "trust" / "metadata" / "root_history").iterdir():
        path.unlink()
    vehicle.restart()
    del vehicle.repository.files["metadata/2.root.json"]
    refused(vehicle, MetadataError, ".")


def test_freeze_is_refused_when_the_metadata_expires(vehicle: StagedVehicle) -> None:
    vehicle.clock = lambda: NOW + timedelta(days=1, seconds=1)
    refused(vehicle, MetadataError, "expired at .* clock is wrong")


def test_a_clock_in_1970_does_not_unfreeze(vehicle: StagedVehicle) -> None:
    vehicle.clock = lambda: NOW + timedelta(hours=23)
    vehicle.delivery.fetch(vehicle.second, VARIANT, slot=SLOT)
    vehicle.repository.renew(lifetime=timedelta(hours=22))
    vehicle.restart()
    vehicle.clock = lambda: datetime.fromtimestamp(0, UTC)
    refused(vehicle, MetadataError, "expired")


def test_a_clock_in_2040_refuses_and_recovers(vehicle: StagedVehicle) -> None:
    vehicle.clock = lambda: datetime(2040, 1, 1, tzinfo=UTC)
    refused(vehicle, MetadataError, "expired")
    vehicle.clock = lambda: NOW
    vehicle.delivery.fetch(vehicle.second, VARIANT, slot=SLOT)


def test_mix_and_match_is_refused(vehicle: StagedVehicle) -> None:
    """Today's timestamp with yesterday's snapshot in the place of today's."""
    before = vehicle.repository.snapshot.signed.version
    vehicle.publish(3)
    files = vehicle.repository.files
    now = vehicle.repository.snapshot.signed.version
    files[f"metadata/{now}.snapshot.json"] = files[f"metadata/{before}.snapshot.json"]
    refused(vehicle, MetadataError, "Expected snapshot version")


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_a_role_that_another_key_signed_is_refused(vehicle: StagedVehicle, role: str) -> None:
    vehicle.repository.signers[role] = vehicle.repository.signers["root"]
    vehicle.repository.publish()
    refused(vehicle, MetadataError, "signed by")


def role_files(vehicle: StagedVehicle) -> dict[str, str]:
    repository = vehicle.repository
    return {
        "timestamp": "metadata/timestamp.json",
        "snapshot": f"metadata/{repository.snapshot.signed.version}.snapshot.json",
        "targets": f"metadata/{repository.targets.signed.version}.targets.json",
    }


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "not-json": lambda content: b"\x00" * 100,
    "another-version": lambda content: content.replace(b'"version":', b'"version":1', 1),
    "empty-object": lambda content: b"{}",
}


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_damaged_metadata_is_refused(vehicle: StagedVehicle, role: str, damage: str) -> None:
    path = role_files(vehicle)[role]
    before = vehicle.repository.files[path]
    vehicle.repository.files[path] = DAMAGES[damage](before)
    assert vehicle.repository.files[path] != before
    refused(vehicle, MetadataError, ".")


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
@pytest.mark.parametrize("size_bytes", [600_000, 1 << 40])
def test_endless_metadata_is_refused(vehicle: StagedVehicle, role: str, size_bytes: int) -> None:
    path = role_files(vehicle)[role]
    vehicle.server.announces = lambda asked, size: size_bytes if asked == path else size
    refused(vehicle, MetadataError, "are announced")


def test_the_roots_are_followed(vehicle: StagedVehicle) -> None:
    vehicle.repository.rotate_root()
    vehicle.delivery.fetch(vehicle.second, VARIANT, slot=SLOT)


# Attacks on a release.


def test_a_tampered_target_is_refused_after_a_second_try(vehicle: StagedVehicle) -> None:
    path = model_path(vehicle, vehicle.second)
    content = vehicle.repository.files[path]
    vehicle.repository.files[path] = content[:-1] + bytes([content[-1] ^ 1])
    refused(vehicle, TrustError, "in its place")


def test_a_target_whose_blocks_are_tampered_on_the_way_is_refused(vehicle: StagedVehicle) -> None:
    path = model_path(vehicle, vehicle.second)
    true_sha256 = path.rsplit("/", 1)[1].split(".")[0]
    content = vehicle.repository.files[path]
    vehicle.repository.files[path] = content[:-1] + bytes([content[-1] ^ 1])
    vehicle.server.deliver = lambda sha256, n, block: vehicle.fetcher.deliver(
        true_sha256 if block.path == path else sha256, n, block
    )
    refused(vehicle, TrustError, "does not have the signed hash")
    assert sorted(vehicle.server.served[path]) == sorted([*range(8), *range(8)])
    assert not list((vehicle.directory / "state" / "staging").rglob("*.part"))


@pytest.mark.parametrize("size_bytes", [100, 1 << 40])
def test_a_target_of_another_size_is_refused(vehicle: StagedVehicle, size_bytes: int) -> None:
    path = model_path(vehicle, vehicle.second)
    vehicle.server.announces = lambda asked, size: size_bytes if asked == path else size
    refused(vehicle, TrustError, "were expected")


def test_a_wrong_hash_in_the_desired_state_is_refused(vehicle: StagedVehicle) -> None:
    wrong = msgspec.structs.replace(vehicle.second, manifest_sha256="0" * 64)
    refused(vehicle, TrustError, "the signed SHA-256 is", wrong)


def test_a_wrong_version_name_in_the_desired_state_is_refused(vehicle: StagedVehicle) -> None:
    refused(vehicle, TrustError, "signed as", msgspec.structs.replace(vehicle.second, version="v9"))


def test_a_release_that_is_not_signed_is_refused(vehicle: StagedVehicle) -> None:
    unsigned = release_ref(opaque_bundle(vehicle.directory / "made-9", "v9"), 9)
    refused(vehicle, MetadataError, "not among the signed targets", unsigned)


def test_a_file_that_is_signed_otherwise_than_its_manifest_says_is_refused(vehicle: StagedVehicle) -> None:
    targets = vehicle.repository.targets.signed.targets
    targets[f"traffic-sign/2/{MODEL}"].length += 1
    vehicle.repository.publish()
    refused(vehicle, TrustError, "than its manifest says")


def test_a_file_that_the_repository_lacks_is_asked_for_later(vehicle: StagedVehicle) -> None:
    del vehicle.repository.files[model_path(vehicle, vehicle.second)]
    with pytest.raises(RetryLaterError, match="no such file"):
        vehicle.delivery.fetch(vehicle.second, VARIANT, slot=SLOT)


def test_a_silent_repository_is_asked_later(vehicle: StagedVehicle) -> None:
    vehicle.server.loses = lambda path, n: True
    with pytest.raises(FetchInterruptedError, match="no block came"):
        vehicle.delivery.fetch(vehicle.second, VARIANT, slot=SLOT)


# Releases that are of no use here.


def test_a_release_without_the_variant_is_of_no_use(vehicle: StagedVehicle) -> None:
    with pytest.raises(VariantMissingError, match="it has onnx-int8, tflite-int8"):
        vehicle.delivery.fetch(vehicle.second, "onnx-fp32", slot=SLOT)


def test_a_release_for_a_newer_agent_is_of_no_use(vehicle: StagedVehicle) -> None:
    with pytest.raises(BundleError, match=r"needs agent 0\.10\.0"):
        vehicle.delivery.fetch(vehicle.publish(3, min_agent_version="0.10.0"), VARIANT, slot=SLOT)


def test_a_full_disk_leaves_what_arrived(vehicle: StagedVehicle, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(vehicle.directory)
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda path: os.statvfs_result((*real[:4], 300, *real[5:])))
        with pytest.raises(DiskFullError, match="bytes free"):
            vehicle.delivery.fetch(vehicle.second, VARIANT, slot=SLOT)
    vehicle.delivery.fetch(vehicle.second, VARIANT, slot=SLOT)


# What a vehicle is provisioned with.


def test_provisioned_releases_are_checked_offline_and_whenever(vehicle: StagedVehicle) -> None:
    verify_provisioned(vehicle.directory / "trust", [vehicle.first])


def test_a_provisioned_release_that_is_not_signed_is_refused(vehicle: StagedVehicle) -> None:
    with pytest.raises(TrustError, match="is not signed with SHA-256"):
        verify_provisioned(
            vehicle.directory / "trust", [msgspec.structs.replace(vehicle.first, manifest_sha256="0" * 64)]
        )


def test_provisioned_metadata_of_another_workspace_is_refused(vehicle: StagedVehicle, tmp_path: Path) -> None:
    other = StagedVehicle(tmp_path / "other", NOW)
    metadata = vehicle.directory / "trust" / "metadata"
    (metadata / "targets.json").write_bytes((other.directory / "trust" / "metadata" / "targets.json").read_bytes())
    with pytest.raises(TrustError, match="targets was signed by 0/1"):
        verify_provisioned(vehicle.directory / "trust", [vehicle.first])


def test_a_provisioning_folder_without_a_root_says_so(vehicle: StagedVehicle) -> None:
    (vehicle.directory / "trust" / "root.json").unlink()
    with pytest.raises(ConfigError, match=r"root\.json.*provision the vehicle anew"):
        verify_provisioned(vehicle.directory / "trust", [vehicle.first])
