"""The store: what it keeps, what it refuses, and what it does with full disks and damaged files."""

import errno
import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roadloop_agent.update import state as states
from roadloop_agent.update.state import STARTS_ON_TRIAL, SlotState
from roadloop_agent.update.store import Store, open_version
from roadloop_models.bundle import Bundle
from roadloop_models.contract.messages import ReleaseRef
from roadloop_models.errors import (
    BundleError,
    ConfigError,
    ConflictError,
    DiskFullError,
    RetryLaterError,
    RoadloopError,
)
from tests.fakes.injection import hooked
from tests.fakes.opaque_bundles import VARIANT, opaque_bundle
from tests.fakes.provisioned import BAD, SLOT, Vehicle, life, started

pytestmark = pytest.mark.usefixtures("fast_disk")


@pytest.fixture
def vehicle(tmp_path: Path) -> Vehicle:
    return Vehicle.made(tmp_path)


def test_provisioning_installs_the_first_release_once(vehicle: Vehicle) -> None:
    store = vehicle.store()
    assert not store.is_provisioned()
    asked: list[ReleaseRef] = []
    store.provision(asked.extend)
    assert store.is_provisioned() and asked == [vehicle.ref(1)]
    before = (vehicle.state / "state.json").stat().st_mtime_ns
    store.provision(lambda refs: None)
    assert (vehicle.state / "state.json").stat().st_mtime_ns == before
    assert started(store) == 1


def test_provisioning_stops_where_a_signature_does_not_hold(vehicle: Vehicle) -> None:
    def refuse(refs: object) -> None:
        raise BundleError("not signed")

    with pytest.raises(BundleError, match="not signed"):
        vehicle.store().provision(refuse)
    assert not vehicle.store().is_provisioned()


def test_a_store_that_was_never_provisioned_says_so(vehicle: Vehicle) -> None:
    with pytest.raises(ConfigError, match="not provisioned"):
        vehicle.store().load_for_start(SLOT)


def test_provisioning_names_a_slot_without_a_release(vehicle: Vehicle) -> None:
    store = Store(vehicle.state, {SLOT: VARIANT, "speed": VARIANT}, vehicle.directory)
    with pytest.raises(ConfigError, match="'speed'"):
        store.provision(lambda refs: None)


def test_only_the_files_of_the_variant_are_installed(vehicle: Vehicle) -> None:
    vehicle.provisioned()
    installed = vehicle.state / "versions" / vehicle.ref(1).manifest_sha256
    assert sorted(path.name for path in installed.iterdir()) == [
        "golden.npz",
        "labels.txt",
        "manifest.json",
        "model.onnx",
    ]


def test_a_second_variant_joins_the_installed_version(vehicle: Vehicle) -> None:
    vehicle.provisioned()
    both = Store(vehicle.state, {SLOT: VARIANT, "other": "tflite-int8"}, vehicle.directory)
    both.install("other", vehicle.ref(1), vehicle.directory / "releases" / vehicle.ref(1).manifest_sha256)
    for variant in (VARIANT, "tflite-int8"):
        open_version(both.version_directory(vehicle.ref(1)), vehicle.ref(1), variant)


def test_a_trial_is_confirmed_and_the_version_before_stays(vehicle: Vehicle) -> None:
    store = vehicle.provisioned()
    vehicle.begin(store, 2)
    assert started(store) == 2
    state = vehicle.confirm(store, 2)
    assert (state.confirmed, state.previous, state.trial) == (vehicle.ref(2), vehicle.ref(1), None)
    assert store.collect_garbage() == [] and started(store) == 2


def test_a_trial_is_given_up_after_its_starts_are_spent(vehicle: Vehicle) -> None:
    store = vehicle.provisioned()
    vehicle.begin(store, 2)
    assert [started(store) for _ in range(STARTS_ON_TRIAL + 1)] == [2] * STARTS_ON_TRIAL + [1]
    outcome = states.outcome_of(store.slot(SLOT).outcomes, vehicle.ref(2))
    assert outcome is not None and outcome.result == "rolled-back" and "too often" in outcome.error.detail


def test_a_trial_that_was_taken_back_is_remembered(vehicle: Vehicle) -> None:
    store = vehicle.provisioned()
    vehicle.begin(store, 2)
    vehicle.take_back(store, 2)
    again = vehicle.take_back(store, 2, None)
    assert [(outcome.ref.release, outcome.error) for outcome in again.outcomes] == [(2, BAD)]
    assert started(store) == 1


def test_only_one_release_is_on_trial(vehicle: Vehicle) -> None:
    store = vehicle.provisioned()
    vehicle.begin(store, 2)
    vehicle.install(store, 3)
    with pytest.raises(ConflictError):
        vehicle.trial(store, 3)
    with pytest.raises(ConflictError):
        vehicle.confirm(store, 3)


def test_a_trial_needs_a_complete_version(vehicle: Vehicle) -> None:
    with pytest.raises(BundleError):
        vehicle.trial(vehicle.provisioned(), 2)


def test_what_is_staged_must_be_what_is_named(vehicle: Vehicle) -> None:
    with pytest.raises(BundleError, match="not the one that release 2 names"):
        vehicle.provisioned().install(SLOT, vehicle.ref(2), vehicle.staged(3))


def test_outcomes_are_bounded(vehicle: Vehicle) -> None:
    store = vehicle.provisioned()
    for release in range(2, 30):
        store.refuse(SLOT, msgspec.structs.replace(vehicle.ref(2), release=release), BAD)
    assert [outcome.ref.release for outcome in store.slot(SLOT).outcomes] == list(range(14, 30))


def test_the_newest_desired_version_is_remembered(vehicle: Vehicle) -> None:
    vehicle.provisioned()
    assert [vehicle.store().accept_desired(version) for version in (5, 5, 4, 6)] == [True, True, False, True]


def test_garbage_collection_keeps_what_is_needed(vehicle: Vehicle) -> None:
    store = vehicle.provisioned()
    for release in (2, 3):
        vehicle.begin(store, release)
        vehicle.confirm(store, release)
    opaque_bundle(vehicle.directory / "staged-4", "v4")
    vehicle.install(store, 4)
    assert store.collect_garbage([vehicle.ref(4)]) == [vehicle.ref(1).manifest_sha256]
    assert store.collect_garbage() == [vehicle.ref(4).manifest_sha256]
    assert started(store) == 3


def test_files_of_installed_versions_are_provided_again(vehicle: Vehicle, tmp_path: Path) -> None:
    store = vehicle.provisioned()
    manifest = Bundle.open(vehicle.staged(2)).manifest
    labels, weights = manifest.file_entry("labels.txt"), manifest.file_entry("model.onnx")
    assert store.provide(labels, tmp_path / "new" / "labels.txt")
    assert (tmp_path / "new" / "labels.txt").read_bytes() == (vehicle.staged(2) / "labels.txt").read_bytes()
    assert not store.provide(weights, tmp_path / "new" / "model.onnx")


# Damage.


def damage(directory: Path) -> None:
    path = directory / "model.onnx"
    content = path.read_bytes()
    path.unlink()  # other names of the same file stay whole
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_a_damaged_trial_is_taken_back_at_the_start(vehicle: Vehicle) -> None:
    store = vehicle.provisioned()
    vehicle.begin(store, 2)
    damage(store.version_directory(vehicle.ref(2)))
    assert started(store) == 1
    assert states.outcome_of(store.slot(SLOT).outcomes, vehicle.ref(2)) is not None


def test_a_damaged_confirmed_version_gives_way_to_the_one_before(vehicle: Vehicle) -> None:
    store = vehicle.provisioned()
    for release in (2, 3):
        vehicle.begin(store, release)
        vehicle.confirm(store, release)
    damage(store.version_directory(vehicle.ref(3)))
    assert started(store) == 2 and store.slot(SLOT).confirmed == vehicle.ref(2)
    damage(store.version_directory(vehicle.ref(2)))
    assert started(store) == 1


def test_installing_again_mends_a_damaged_version(vehicle: Vehicle) -> None:
    store = vehicle.provisioned()
    damage(store.version_directory(vehicle.ref(1)))
    assert started(store) == 1, "mended from the provisioning folder"
    vehicle.begin(store, 2)
    (store.version_directory(vehicle.ref(2)) / "manifest.json").unlink()
    vehicle.install(store, 2)
    assert started(store) == 2


@pytest.mark.parametrize("content", [b"", b'{"format": 1, "slots": {"si', b"\x00" * 200, b'{"format": 2}', b"[]"])
def test_torn_state_files_fall_back_to_the_provisioned_release(vehicle: Vehicle, content: bytes) -> None:
    store = vehicle.provisioned()
    vehicle.begin(store, 2)
    vehicle.confirm(store, 2)
    for name in ("state.json", "state.previous.json"):
        (vehicle.state / name).unlink()  # they may be one file by two names
        (vehicle.state / name).write_bytes(content)
    assert started(store) == 1
    assert (vehicle.state / "state.damaged.json").read_bytes() == content


@pytest.mark.parametrize("content", [b"", b'{"format": 1, "slots": {"si', b"\x00" * 200, None])
def test_a_torn_state_file_gives_way_to_the_state_before(vehicle: Vehicle, content: bytes | None) -> None:
    store = vehicle.provisioned()
    vehicle.begin(store, 2)
    vehicle.confirm(store, 2)
    (vehicle.state / "state.json").unlink()
    if content is not None:
        (vehicle.state / "state.json").write_bytes(content)
    assert started(store) == 2, "on trial once more, which it was before it was confirmed"
    vehicle.confirm(store, 2)
    vehicle.begin(store, 3)
    assert started(store) == 3


def test_without_any_whole_version_the_error_names_the_file(vehicle: Vehicle) -> None:
    store = vehicle.provisioned()
    damage(store.version_directory(vehicle.ref(1)))
    damage(vehicle.directory / "releases" / vehicle.ref(1).manifest_sha256)
    with pytest.raises(BundleError, match=r"model\.onnx"):
        store.load_for_start(SLOT)


# The order of writing.


def test_files_are_durable_before_the_name_that_they_are_found_by(vehicle: Vehicle) -> None:
    """A power cut keeps what was synced: the files of a version, its directory, and the state, in this order."""
    synced: set[str] = set()
    unsynced: list[str] = []

    def hook(number: int, name: str, when: str, args: tuple[Any, ...]) -> None:
        if name == "fsync" and when == "after":
            synced.add(str(Path(f"/proc/self/fd/{args[0]}").readlink()))
        if name == "rename" and when == "before":
            source = Path(os.fspath(args[0]))
            inside = [source, *source.rglob("*")]
            unsynced.extend(str(path) for path in inside if str(path) not in synced)
        if name == "rename" and when == "before" and Path(args[1]).name == "state.json":
            assert str(vehicle.state / "versions") in synced

    with hooked(hook):
        life(vehicle)
    assert unsynced == [] and len(synced) > 10


# Full disks.


def test_a_full_disk_at_any_write_changes_nothing_that_runs(vehicle: Vehicle, tmp_path: Path) -> None:
    failures = 0
    for number in range(1, 1000):
        here = Vehicle(vehicle.directory, tmp_path / "points" / str(number))
        store = here.provisioned()
        here.begin(store, 2)
        here.confirm(store, 2)
        full = False

        def hook(at: int, name: str, when: str, args: tuple[Any, ...], number: int = number) -> None:
            nonlocal full
            creates = name == "open" and len(args) > 1 and args[1] & os.O_CREAT and not Path(args[0]).exists()
            if when == "before" and at >= number and (creates or name in ("write", "mkdir", "link")):
                full = True
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with hooked(hook):
            try:
                here.begin(store, 3)
                assert not full
            except DiskFullError:
                failures += 1
            assert started(store) in (2, 3)
        assert started(store) in (2, 3)
        shutil.rmtree(here.state)
        if not full:
            break
    assert failures > 10


def test_too_little_room_is_seen_before_anything_is_written(vehicle: Vehicle, monkeypatch: pytest.MonkeyPatch) -> None:
    store = vehicle.provisioned()
    before = sorted(vehicle.state.rglob("*"))
    real = os.statvfs(vehicle.directory)
    small = os.statvfs_result((*real[:4], 100, *real[5:]))
    monkeypatch.setattr(os, "statvfs", lambda path: small)
    with pytest.raises(DiskFullError, match="bytes free"):
        vehicle.install(store, 2)
    assert sorted(vehicle.state.rglob("*")) == before


def test_a_disk_that_cannot_be_written_still_starts_the_confirmed_version(
    vehicle: Vehicle, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = vehicle.provisioned()
    vehicle.begin(store, 2)
    vehicle.confirm(store, 2)
    vehicle.begin(store, 3)

    def refuse(*args: Any, **kwargs: Any) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", refuse)
    version = store.load_for_start(SLOT)
    assert (version.ref.release, version.on_trial) == (2, False)
    damage(store.version_directory(vehicle.ref(2)))
    damage(store.version_directory(vehicle.ref(1)))
    assert store.load_for_start(SLOT).directory.parent == vehicle.directory / "releases"


# Any order of calls.

Call = Callable[[Vehicle, Store], object]
CALLS: dict[str, Call] = {
    **{f"install-{n}": lambda v, s, n=n: v.install(s, n) for n in (2, 3)},  # type: ignore[misc]
    **{f"begin-{n}": lambda v, s, n=n: v.trial(s, n) for n in (2, 3)},  # type: ignore[misc]
    **{f"confirm-{n}": lambda v, s, n=n: v.confirm(s, n) for n in (2, 3)},  # type: ignore[misc]
    **{f"back-{n}": lambda v, s, n=n: v.take_back(s, n) for n in (2, 3)},  # type: ignore[misc]
    **{f"refuse-{n}": lambda v, s, n=n: s.refuse(SLOT, v.ref(n), BAD) for n in (2, 3)},  # type: ignore[misc]
    "collect": lambda v, s: s.collect_garbage(),
    "start": lambda v, s: s.load_for_start(SLOT),
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.sampled_from(sorted(CALLS)), max_size=25), seed=st.integers(0, 1 << 30))
def test_confirmed_and_trial_are_always_installed(vehicle: Vehicle, names: list[str], seed: int) -> None:
    here = Vehicle(vehicle.directory, vehicle.directory / f"any-{random.Random(seed).getrandbits(64)}")
    store = here.provisioned()
    for name in names:
        with suppress(BundleError, ConflictError):
            CALLS[name](here, store)
        state: SlotState = here.store().slot(SLOT)
        for ref in state.refs:
            open_version(store.version_directory(ref), ref, VARIANT)
    assert started(here.store()) in (1, 2, 3)
    shutil.rmtree(here.state)


def test_errors_of_the_disk_are_of_the_catalogue(vehicle: Vehicle, monkeypatch: pytest.MonkeyPatch) -> None:
    store = vehicle.provisioned()

    def fail(*args: Any, **kwargs: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(vehicle.state))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RetryLaterError, match="Input/output error") as caught:
        vehicle.install(store, 2)
    assert isinstance(caught.value, RoadloopError) and not isinstance(caught.value, DiskFullError)


def test_a_bit_flip_in_the_state_is_noticed(vehicle: Vehicle) -> None:
    """Most give a file that still parses, with another name or number in it."""
    store = vehicle.provisioned()
    vehicle.begin(store, 2)
    before = store.read()
    vehicle.confirm(store, 2)
    after, path = store.read(), vehicle.state / "state.json"
    content = path.read_bytes()
    path.unlink()  # the state before it may be the same file by another name
    for index in range(len(content)):
        path.write_bytes(content[:index] + bytes([content[index] ^ 1 << index % 8]) + content[index + 1 :])
        assert store.read() in (before, after)
