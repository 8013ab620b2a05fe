"""A vehicle that holds the release before makes files of patches, and takes the whole file wherever one is no good."""

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roadloop_agent.update import patching
from roadloop_agent.update.store import open_version
from roadloop_models.bundle import Bundle
from roadloop_models.bundle.delta import KINDS, PatchKind
from roadloop_models.contract.messages import ReleaseRef
from roadloop_models.errors import DiskFullError, FetchInterruptedError
from tests.fakes.opaque_bundles import VARIANT, opaque_bundle
from tests.fakes.repository import utc_now
from tests.fakes.staged_vehicle import SLOT, WEIGHTS_BYTES, StagedVehicle

pytestmark = pytest.mark.usefixtures("fast_disk")

MODEL = "model.onnx"
NOW = utc_now()


class TunedVehicle(StagedVehicle):
    """Runs release 2; release 3 is a fine-tune of it, with a signed patch."""

    def __init__(self, directory: Path, kind: PatchKind = "subtract-zstd", content: bytes | None = None) -> None:
        super().__init__(directory, NOW)
        self.store.install(SLOT, self.second, self.fetch(self.second))
        self.bundles[3] = opaque_bundle(directory / "made-3", "v3", tuned_from=self.bundles[2])
        self.third = self.repository.add(self.bundles[3], 3)
        self.patch = self.repository.add_patch(self.third, MODEL, self.bundles[2], kind, content)
        self.restart()

    def fetch(self, ref: ReleaseRef, **options: Any) -> Path:
        return self.delivery.fetch(ref, VARIANT, slot=SLOT, **options)

    def blocks(self, target: str) -> int:
        return self.server.blocks(self.repository.url(target))

    @property
    def whole(self) -> str:
        return f"{self.third.task}/3/{MODEL}"

    def delivered(self, directory: Path) -> Bundle:
        """What was staged is the release, byte by byte."""
        bundle = open_version(directory, self.third, VARIANT)
        assert bundle.path(MODEL).read_bytes() == self.bundles[3].path(MODEL).read_bytes()
        assert not (directory / patching.PATCHES).exists()
        return bundle


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_comes_instead_of_the_whole_file(tmp_path: Path, kind: PatchKind) -> None:
    vehicle = TunedVehicle(tmp_path, kind)
    progress: list[tuple[int, int]] = []
    vehicle.delivered(vehicle.fetch(vehicle.third, progress=lambda *args: progress.append(args)))
    assert vehicle.blocks(vehicle.whole) == 0
    patch_blocks = vehicle.blocks(vehicle.patch)
    assert 0 < patch_blocks < 8
    golden_blocks = 1
    assert progress[-1] == (patch_blocks + golden_blocks, patch_blocks + golden_blocks)
    installed = vehicle.store.install(SLOT, vehicle.third, vehicle.delivery.directory(vehicle.third))
    open_version(installed, vehicle.third, VARIANT)


def test_tflite_weights_are_patched_too(tmp_path: Path) -> None:
    vehicle = TunedVehicle(tmp_path)
    vehicle.repository.add_patch(vehicle.third, "model.tflite", vehicle.bundles[2], "bsdiff4")
    vehicle.delivery.fetch(vehicle.second, "tflite-int8", slot=SLOT)
    staged = vehicle.delivery.directory(vehicle.second)
    vehicle.store._variants[SLOT] = "tflite-int8"
    vehicle.store.install(SLOT, vehicle.second, staged)
    vehicle.restart()
    directory = vehicle.delivery.fetch(vehicle.third, "tflite-int8", slot=SLOT)
    assert (directory / "model.tflite").read_bytes() == vehicle.bundles[3].path("model.tflite").read_bytes()
    assert vehicle.blocks(f"{vehicle.third.task}/3/model.tflite") == 0


def test_the_smallest_of_several_patches_is_taken(tmp_path: Path) -> None:
    """Releases 1 and 2 are both installed; the patch from 1 is nearly the whole file."""
    vehicle = TunedVehicle(tmp_path)
    other = vehicle.repository.add_patch(vehicle.third, MODEL, vehicle.bundles[1], "bsdiff4", bytes(WEIGHTS_BYTES - 1))
    vehicle.delivered(vehicle.fetch(vehicle.third))
    assert vehicle.blocks(other) == 0 and vehicle.blocks(vehicle.patch) > 0


def test_a_patch_that_is_no_smaller_is_not_taken(tmp_path: Path) -> None:
    vehicle = TunedVehicle(tmp_path, content=bytes(WEIGHTS_BYTES))
    vehicle.delivered(vehicle.fetch(vehicle.third))
    assert vehicle.blocks(vehicle.patch) == 0 and vehicle.blocks(vehicle.whole) == 8


def test_without_the_release_before_the_whole_file_comes(tmp_path: Path) -> None:
    vehicle = TunedVehicle(tmp_path)
    vehicle.store.collect_garbage()
    vehicle.delivered(vehicle.fetch(vehicle.third))
    assert vehicle.blocks(vehicle.patch) == 0 and vehicle.blocks(vehicle.whole) == 8


# Patches that are no good.


def falls_back(vehicle: TunedVehicle, caplog: pytest.LogCaptureFixture, why: str) -> None:
    """The whole file comes, the log says why, and the progress ends at its end."""
    progress: list[tuple[int, int]] = []
    with caplog.at_level(logging.WARNING, patching.__name__):
        vehicle.delivered(vehicle.fetch(vehicle.third, progress=lambda *args: progress.append(args)))
    assert vehicle.blocks(vehicle.whole) == 8
    assert progress[-1][0] <= progress[-1][1] and progress[-1][1] >= 8 + 1
    assert "fetching the whole file" in caplog.text and why in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_a_malformed_patch_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: PatchKind) -> None:
    falls_back(TunedVehicle(tmp_path, kind, b"no patch at all, though it is signed"), caplog, "patch: ")


def test_a_patch_that_makes_another_file_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Signed for release 3, but it makes release 2."""
    from roadloop_models.bundle.delta import make_patch

    old = StagedVehicle(tmp_path / "other", NOW).bundles[2].path(MODEL).read_bytes()
    content = make_patch("subtract-zstd", old, old)
    falls_back(TunedVehicle(tmp_path / "this", content=content), caplog, "does not have the signed SHA-256")


def test_a_patch_that_is_tampered_with_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    vehicle = TunedVehicle(tmp_path)
    path = vehicle.repository.url(vehicle.patch)
    content = vehicle.repository.files[path]
    vehicle.repository.files[path] = content[:-1] + bytes([content[-1] ^ 1])
    falls_back(vehicle, caplog, vehicle.patch)


def test_a_patch_that_the_repository_lacks_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    vehicle = TunedVehicle(tmp_path)
    del vehicle.repository.files[vehicle.repository.url(vehicle.patch)]
    falls_back(vehicle, caplog, "no such file")


def test_a_damaged_base_is_not_patched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    vehicle = TunedVehicle(tmp_path)
    base = vehicle.store.version_directory(vehicle.second) / MODEL
    content = bytearray(base.read_bytes())
    content[1000] ^= 1
    base.unlink()
    base.write_bytes(content)
    falls_back(vehicle, caplog, "does not have the signed SHA-256")


def test_a_base_that_cannot_be_read_is_not_patched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    vehicle = TunedVehicle(tmp_path)
    base = vehicle.store.version_directory(vehicle.second) / MODEL
    read = Path.read_bytes

    def fails(path: Path) -> bytes:
        if path == base:
            raise OSError(errno.EIO, "Input/output error")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fails)
    with caplog.at_level(logging.WARNING, patching.__name__):
        vehicle.fetch(vehicle.third)
    assert vehicle.blocks(vehicle.whole) == 8 and "Input/output error" in caplog.text


def test_a_patch_that_never_comes_is_left_after_a_few_times(tmp_path: Path) -> None:
    """Somebody on the way lets all through but the patch."""
    vehicle = TunedVehicle(tmp_path)
    patch = vehicle.repository.url(vehicle.patch)
    vehicle.server.loses = lambda path, n: path == patch
    for _ in range(3):
        with pytest.raises(FetchInterruptedError):
            vehicle.fetch(vehicle.third)
    vehicle.delivered(vehicle.fetch(vehicle.third))
    assert vehicle.blocks(vehicle.whole) == 8


@pytest.mark.parametrize("field", ["from", "to", "patch"])
def test_a_patch_that_is_signed_for_something_else_is_not_asked_for(tmp_path: Path, field: str) -> None:
    vehicle = TunedVehicle(tmp_path)
    custom = vehicle.repository.targets.signed.targets[vehicle.patch].unrecognized_fields["custom"]
    custom[field] = "0" * 64
    vehicle.repository.publish()
    vehicle.delivered(vehicle.fetch(vehicle.third))
    assert vehicle.blocks(vehicle.patch) == 0 and vehicle.blocks(vehicle.whole) == 8


# Interruptions.


def test_a_patch_that_was_interrupted_is_resumed(tmp_path: Path) -> None:
    vehicle = TunedVehicle(tmp_path, "patch-from")
    patch = vehicle.repository.url(vehicle.patch)
    vehicle.server.loses = lambda path, n: path == patch and n >= 1
    with pytest.raises(FetchInterruptedError):
        vehicle.fetch(vehicle.third)
    vehicle.restart()
    vehicle.delivered(vehicle.fetch(vehicle.third))
    assert 0 not in vehicle.server.served[patch]


def test_a_full_disk_leaves_what_arrived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vehicle = TunedVehicle(tmp_path)
    real = os.statvfs(tmp_path)
    asked: list[int] = []

    def room(path: Path) -> os.statvfs_result:
        asked.append(1)
        return os.statvfs_result((*real[:4], 300 if len(asked) > 1 else real.f_bavail, *real[5:]))

    with monkeypatch.context() as patch, pytest.raises(DiskFullError, match="bytes free"):
        patch.setattr(os, "statvfs", room)
        vehicle.fetch(vehicle.third)
    vehicle.restart()
    vehicle.delivered(vehicle.fetch(vehicle.third))
    assert vehicle.blocks(vehicle.patch) == 0, "it was there already"


STEPS = ("write_bytes", "rename")


@pytest.mark.parametrize("killed", STEPS)
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_while_a_patch_is_applied_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: str, after: bool
) -> None:
    """Before and after each step that writes; a torn write is one of half of the content."""
    vehicle = TunedVehicle(tmp_path)
    real: Callable[..., Any] = getattr(Path, killed)

    def dies(path: Path, argument: Any) -> Any:
        if path.name != f".{MODEL}.incoming" or path.parent.name != vehicle.third.manifest_sha256:
            return real(path, argument)
        if after:
            real(path, argument)
        elif killed == "write_bytes":
            real(path, argument[: len(argument) // 2])
        raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Path, killed, dies)
        vehicle.fetch(vehicle.third)
    version = vehicle.store.load_for_start(SLOT)
    open_version(version.directory, version.ref, VARIANT)
    vehicle.restart()
    vehicle.delivered(vehicle.fetch(vehicle.third))
    assert vehicle.blocks(vehicle.whole) == 0
