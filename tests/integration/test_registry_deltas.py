"""Patches that are published with a release: which files, from which releases, proved, signed, and told to people."""

import subprocess
import sys
from pathlib import Path

import pytest

from roadloop_cloud.registry import deltas
from roadloop_cloud.registry.releases import release_ref
from roadloop_cloud.store.database import now_utc
from roadloop_cloud.store.fleet_tables import Release
from roadloop_cloud.store.ingest_tables import Vehicle
from roadloop_models.bundle import Bundle
from roadloop_models.bundle.delta import KINDS, MAX_PATCHED_BYTES, apply_patch, patch_name
from tests.fakes.opaque_bundles import TASK, opaque_bundle
from tests.fakes.registry import Client, Registry

WEIGHTS_BYTES = 20_000


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path).create()


def released(registry: Registry, version: str, tuned_from: Bundle | None = None) -> tuple[Bundle, Release]:
    bundle = opaque_bundle(registry.root / version, version, WEIGHTS_BYTES, tuned_from=tuned_from)
    registry.models.register(bundle.directory)
    return bundle, registry.releases.publish(TASK, version)


def signed_patches(registry: Registry) -> list[str]:
    return sorted(name for name in registry.repository.targets() if ".from-" in name)


def name(release: int, file: str, base: Bundle) -> str:
    return f"{TASK}/{release}/{patch_name(file, base.manifest.file_entry(file).sha256)}"


def test_a_fine_tune_is_published_with_a_patch_for_each_weights_file(registry: Registry, tmp_path: Path) -> None:
    first, _ = released(registry, "v1")
    second, release = released(registry, "v2", tuned_from=first)
    assert signed_patches(registry) == [name(2, file, first) for file in ("model.onnx", "model.tflite")]
    shown = [(patch.path, patch.whole_bytes) for patch in registry.releases.patches(release)]
    assert shown == [("model.onnx", WEIGHTS_BYTES), ("model.tflite", WEIGHTS_BYTES)]
    client = Client(registry.root / "repository", tmp_path / "client")
    for file in ("model.onnx", "model.tflite"):
        target = registry.repository.targets()[name(2, file, first)]
        custom = target.custom or {}
        assert custom["to"] == second.manifest.file_entry(file).sha256
        patch = client.download(target.path)
        assert len(patch) < 0.3 * WEIGHTS_BYTES
        whole = apply_patch(custom["patch"], first.path(file).read_bytes(), patch, WEIGHTS_BYTES)
        assert whole == second.path(file).read_bytes()


def test_weights_that_have_nothing_in_common_get_no_patch(registry: Registry) -> None:
    released(registry, "v1")
    released(registry, "v2")
    assert signed_patches(registry) == []


def test_patches_are_made_from_what_vehicles_run(registry: Registry) -> None:
    """The incumbent is release 1; a vehicle says that it runs release 2."""
    first, _ = released(registry, "v1")
    second, release = released(registry, "v2")
    with registry.database.transaction() as session:
        running = {"task": TASK, "running": release_ref(release), "runtime": "onnx", "precision": "int8"}
        session.add(_vehicle("van", {"sign": running | {"state": "idle"}}))
    released(registry, "v3", tuned_from=second)
    assert signed_patches(registry) == [name(3, file, second) for file in ("model.onnx", "model.tflite")]
    assert first.manifest_sha256 != second.manifest_sha256


def test_publishing_again_adds_patches_for_what_vehicles_run_by_then(registry: Registry) -> None:
    released(registry, "v1")
    second, release = released(registry, "v2")
    _, third = released(registry, "v3", tuned_from=second)
    assert signed_patches(registry) == []
    with registry.database.transaction() as session:
        running = {"task": TASK, "running": release_ref(release), "runtime": "onnx", "precision": "int8"}
        session.add(_vehicle("van", {"sign": running | {"state": "idle"}}))
    assert registry.releases.publish(TASK, "v3").release == third.release
    made = signed_patches(registry)
    assert made == [name(3, file, second) for file in ("model.onnx", "model.tflite")]
    registry.releases.publish(TASK, "v3")
    assert signed_patches(registry) == made


def test_the_person_who_publishes_is_told_of_each_file(registry: Registry) -> None:
    first, _ = released(registry, "v1")
    bundle = opaque_bundle(registry.root / "v2", "v2", WEIGHTS_BYTES, tuned_from=first)
    registry.models.register(bundle.directory)
    steps: list[tuple[str, float | None]] = []
    registry.releases.publish(TASK, "v2", step=lambda text, done: steps.append((text, done)))
    assert steps == [("patch for model.onnx", 0.0), ("patch for model.tflite", 0.5), ("sign", None)]


def test_a_file_that_cannot_be_patched_is_said_and_left_out(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = opaque_bundle(tmp_path / "a", "v1", WEIGHTS_BYTES)
    second = opaque_bundle(tmp_path / "b", "v2", WEIGHTS_BYTES, tuned_from=first)
    (pair, *_) = deltas.pairs(second, [first], "t/2", ())
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(MAX_PATCHED_BYTES + 1)
    broken = deltas.Pair(pair.entry, pair.base_sha256, huge, pair.target)
    (tmp_path / "made").mkdir()
    (patch,) = deltas.make_patches([broken, pair], tmp_path / "made", lambda text, done: None)
    assert patch.pair == pair and "not all kinds of patches could be made" in caplog.text


def test_a_kind_that_takes_too_much_memory_is_left_out(tmp_path: Path) -> None:
    """bsdiff4 needs seventeen times the file: those kinds that were made before are there."""
    content = bytes(16_000_000)
    (tmp_path / "base").write_bytes(content)
    (tmp_path / "target").write_bytes(b"a new header" + content)
    limited = (
        "import sys; from roadloop_cloud.registry import patch_process as p;"
        "p.ORDER = ('subtract-zstd', 'bsdiff4'); p.MEMORY_BYTES = 200_000_000; p.main(*sys.argv[1:])"
    )
    paths = [str(tmp_path / "base"), str(tmp_path / "target"), str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", limited, *paths], check=False, capture_output=True, text=True)
    assert done.returncode != 0 and "MemoryError" in done.stderr
    assert (tmp_path / "subtract-zstd").exists() and not (tmp_path / "bsdiff4").exists()


def test_a_patch_that_makes_another_file_is_not_kept(tmp_path: Path) -> None:
    """A fault of what makes patches, here one that makes the old file again."""
    (tmp_path / "base").write_bytes(b"old" * 2000)
    (tmp_path / "target").write_bytes(b"new" * 2000)
    faulty = (
        "import sys; from roadloop_cloud.registry import patch_process as p; make = p.make_patch;"
        "p.make_patch = lambda kind, base, target: make(kind, base, base if kind == 'bsdiff4' else target);"
        "p.main(*sys.argv[1:])"
    )
    paths = [str(tmp_path / "base"), str(tmp_path / "target"), str(tmp_path)]
    subprocess.run([sys.executable, "-c", faulty, *paths], check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"base", "target", *KINDS} - {"bsdiff4"}


def test_what_is_small_or_signed_already_is_not_patched(tmp_path: Path) -> None:
    first = opaque_bundle(tmp_path / "a", "v1", WEIGHTS_BYTES)
    second = opaque_bundle(tmp_path / "b", "v2", WEIGHTS_BYTES, tuned_from=first)
    wanted = deltas.pairs(second, [first, first], "t/2", ())
    assert [pair.entry.path for pair in wanted] == ["model.onnx", "model.tflite"], "not golden.npz, and none twice"
    signed = {f"t/2/{patch_name(pair.entry.path, pair.base_sha256)}" for pair in wanted[:1]}
    assert deltas.pairs(second, [first], "t/2", signed) == wanted[1:]
    assert deltas.pairs(second, [second], "t/2", ()) == []
    assert deltas.pairs(second, [first], "t" * 100, ()) == []


def _vehicle(vehicle_id: str, slots: dict[str, dict[str, object]]) -> Vehicle:
    import msgspec

    reported = {"boot": 1, "agent_version": "0", "hardware": "h", "desired_version": 0, "slots": slots}
    return Vehicle(
        id=vehicle_id,
        hardware="h",
        profile="p",
        tags=[],
        created=now_utc(),
        online=True,
        reported=msgspec.to_builtins(reported),
    )
