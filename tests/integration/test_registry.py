"""Registry, releases and the signed repository, read back with the client that vehicles use."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from roadloop_agent.update import fetch
from roadloop_cloud.registry import repository as repository_module
from roadloop_cloud.registry.releases import release_ref
from roadloop_cloud.registry.repository import ImageRepository, NewTarget
from roadloop_models.bundle import Bundle
from roadloop_models.bundle.archive import pack
from roadloop_models.errors import BundleError, ConfigError, ConflictError, NotFoundError, TrustError
from tests.fakes.opaque_bundles import TASK, opaque_bundle
from tests.fakes.registry import Client, Registry, published


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    (tmp_path / "ws").mkdir()
    return Registry(tmp_path / "ws").create()


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return opaque_bundle(tmp_path / "bundle", "v1")


def test_register_copies_a_checked_bundle(registry: Registry, bundle: Bundle) -> None:
    row = registry.models.register(bundle.directory)
    assert (row.task, row.version, row.state) == (TASK, "v1", "draft")
    assert registry.models.bundle(TASK, "v1").manifest_sha256 == bundle.manifest_sha256
    assert registry.models.register(bundle.directory).created == row.created
    assert [model.version for model in registry.models.list()] == ["v1"]


def test_register_refuses_a_broken_bundle(registry: Registry, bundle: Bundle) -> None:
    (bundle.directory / "model.onnx").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"model\.onnx"):
        registry.models.register(bundle.directory)
    assert registry.models.list() == []


def test_register_refuses_other_content_under_the_same_version(
    registry: Registry, bundle: Bundle, tmp_path: Path
) -> None:
    registry.models.register(bundle.directory)
    other = opaque_bundle(tmp_path / "other", "v1", weights_bytes=3_000)
    with pytest.raises(ConflictError, match="v1"):
        registry.models.register(other.directory)


def test_import_takes_an_archive(registry: Registry, bundle: Bundle, tmp_path: Path) -> None:
    pack(bundle, tmp_path / "v1.bundle")
    assert registry.models.import_from(tmp_path / "v1.bundle").manifest_sha256 == bundle.manifest_sha256
    (tmp_path / "cut").write_bytes((tmp_path / "v1.bundle").read_bytes()[:2000])
    with pytest.raises(BundleError, match="cut"):
        registry.models.import_from(tmp_path / "cut")
    assert not list((registry.root / "models").glob(".import*"))


def test_unknown_model_names_what_there_is(registry: Registry, bundle: Bundle) -> None:
    registry.models.register(bundle.directory)
    with pytest.raises(NotFoundError, match="v1"):
        registry.models.get(TASK, "v9")


def test_a_release_is_what_a_vehicle_can_fetch(registry: Registry, bundle: Bundle, tmp_path: Path) -> None:
    registry.models.register(bundle.directory)
    release = registry.releases.publish(TASK, "v1")
    assert release.release == 1
    assert registry.models.get(TASK, "v1").state == "published"
    client = Client(registry.root / "repository", tmp_path / "client")
    assert client.download(f"{TASK}/1/manifest.json") == (bundle.directory / "manifest.json").read_bytes()
    assert client.download(f"{TASK}/1/model.onnx") == (bundle.directory / "model.onnx").read_bytes()
    assert not client.signs(f"{TASK}/1/training.bin"), "vehicles do not need the training weights"
    target = registry.repository.targets()[f"{TASK}/1/manifest.json"]
    assert target.custom == {"task": TASK, "release": 1, "version": "v1"}
    assert target.hashes["sha256"] == release_ref(release).manifest_sha256


def test_numbers_rise_and_a_version_keeps_its_own(registry: Registry, tmp_path: Path) -> None:
    assert published(registry, tmp_path, "v1").release == 1
    assert published(registry, tmp_path, "v2").release == 2
    assert registry.releases.publish(TASK, "v1").release == 1
    assert registry.releases.publish(TASK, "v1", again=True).release == 3
    assert [row.release for row in registry.releases.list(TASK)] == [1, 2, 3]
    assert registry.releases.incumbent(TASK).release == 1


def test_a_changed_bundle_is_not_signed(registry: Registry, bundle: Bundle) -> None:
    registry.models.register(bundle.directory)
    (registry.models.directory(TASK, "v1") / "model.onnx").write_bytes(bytes(2_000))
    with pytest.raises(BundleError, match=r"model\.onnx"):
        registry.releases.publish(TASK, "v1")
    assert registry.releases.list() == []


def test_without_the_offline_keys_nothing_is_published(registry: Registry, bundle: Bundle) -> None:
    registry.models.register(bundle.directory)
    (registry.root / "keys" / "offline").rename(registry.root / "keys" / "on-a-stick")
    with pytest.raises(ConfigError, match=f"task {TASK}.*put the folder with the offline keys in place"):
        registry.releases.publish(TASK, "v1")
    assert registry.releases.renew_online() is False


def test_keys_are_readable_by_their_owner_only(registry: Registry) -> None:
    files = sorted((registry.root / "keys").glob("*/*.pem"))
    assert {"root", "targets", "snapshot", "timestamp"} <= {path.stem for path in files}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_a_target_never_changes(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    registry.offline.ensure("t")
    signers = registry.offline.at_hand(), registry.online.at_hand()
    assert registry.repository.publish([NewTarget("t/1/a", tmp_path / "a")], *signers) is True
    assert registry.repository.publish([NewTarget("t/1/a", tmp_path / "a")], *signers) is False
    (tmp_path / "a").write_bytes(b"two")
    with pytest.raises(ConflictError, match="t/1/a"):
        registry.repository.publish([NewTarget("t/1/a", tmp_path / "a")], *signers)


def test_metadata_that_no_vehicle_would_read_is_not_signed(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert repository_module.MAX_METADATA_BYTES == fetch.MAX_METADATA_BYTES, "cloud and vehicle mean the same"
    published(registry, tmp_path, "v1")
    before = registry.repository.status()
    enough = (registry.root / "repository" / "metadata" / f"1.{TASK}.json").stat().st_size
    monkeypatch.setattr(repository_module, "MAX_METADATA_BYTES", enough)
    with pytest.raises(ConflictError, match=f"{TASK}: its metadata would have [0-9]+ bytes, vehicles read {enough}"):
        published(registry, tmp_path, "v2")
    assert registry.repository.status() == before
    assert [row.release for row in registry.releases.list()] == [1]


def test_online_metadata_is_renewed_before_it_expires(registry: Registry, tmp_path: Path) -> None:
    online = registry.online.signers()
    start = datetime.now(UTC)
    versions = []
    for hours in (0, 11, 13, 23, 24 * 4, 24 * 5):
        repository = ImageRepository(registry.root / "repository", lambda hours=hours: start + timedelta(hours=hours))  # type: ignore[misc]
        repository.renew_online(online)
        versions.append({status.role: status.version for status in repository.status()})
        assert all(status.expires > start + timedelta(hours=hours) for status in repository.status())
    assert [step["timestamp"] for step in versions] == [1, 1, 2, 2, 3, 4]
    assert [step["snapshot"] for step in versions] == [1, 1, 1, 1, 2, 2]
    assert Client(registry.root / "repository", tmp_path / "client").updater()


def test_offline_metadata_is_renewed_on_demand(registry: Registry, bundle: Bundle, tmp_path: Path) -> None:
    client = Client(registry.root / "repository", tmp_path / "client")
    client.updater()
    registry.repository.change(lambda change: change.renew(), registry.offline.at_hand(), registry.online.at_hand())
    registry.models.register(bundle.directory)
    registry.releases.publish(TASK, "v1")
    assert client.signs(f"{TASK}/1/manifest.json")
    assert {status.role: status.version for status in registry.repository.status()}["root"] == 2


def test_trust_files_are_the_current_ones_though_a_writer_died(registry: Registry) -> None:
    metadata = registry.root / "repository" / "metadata"
    (metadata / "2.targets.json").write_bytes(b"left by a writer that was killed")
    files = registry.repository.trust_files([])
    assert sorted(files) == [
        "metadata/root.json",
        "metadata/snapshot.json",
        "metadata/targets.json",
        "metadata/timestamp.json",
        "root.json",
    ]
    assert files["metadata/targets.json"] == (metadata / "1.targets.json").read_bytes()


def test_torn_metadata_is_named(registry: Registry) -> None:
    path = registry.root / "repository" / "metadata" / "1.snapshot.json"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(TrustError, match=r"1\.snapshot\.json"):
        registry.repository.targets()
