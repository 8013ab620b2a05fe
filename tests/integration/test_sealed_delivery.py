"""Sealed releases on their way: who listens or reads a vehicle's disk learns no weights, and the vehicle runs them."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from roadloop_agent.drive.pipeline import load_model
from roadloop_agent.drive.shadow.host import spawner
from roadloop_agent.drive.shadow.wire import Failed, Ready, receive_answer
from roadloop_agent.update.refused import MetadataError
from roadloop_agent.update.selftest import Check, SubprocessSelfTest
from roadloop_agent.update.state import Trial
from roadloop_agent.update.store import Store, open_version
from roadloop_cloud.config import BrokerConfig
from roadloop_cloud.identity.authority import Authority
from roadloop_cloud.identity.provisioning import InitialRelease, Profile
from roadloop_cloud.registry.releases import release_ref
from roadloop_cloud.registry.sealing import SealedReleases
from roadloop_cloud.vehicles import Vehicles
from roadloop_models.bundle import Bundle
from roadloop_models.bundle.manifest import CPU_PROVIDERS
from roadloop_models.contract.messages import FileBlock, Policy, ReleaseRef
from roadloop_models.errors import BundleError, ConflictError
from roadloop_models.sealed import KEY_FILE, FileKeyStore, new_key_pair
from tests.fakes.bundles import WEIGHTS, tiny_bundle
from tests.fakes.opaque_bundles import VARIANT, opaque_bundle
from tests.fakes.registry import Client, Registry
from tests.fakes.repository import VAN, utc_now
from tests.fakes.staged_vehicle import SLOT, StagedVehicle

pytestmark = pytest.mark.usefixtures("fast_disk")

NOW = utc_now()
TASK = "traffic-sign"
OTHER = "van-2"
WINDOW_BYTES = 16


class SealedVehicle(StagedVehicle):
    """Runs release 1; release 3, a model that really runs, is published `sealed` or in clear."""

    def __init__(self, directory: Path, *, sealed: bool = True) -> None:
        super().__init__(directory, NOW)
        keys = {name: new_key_pair() for name in (VAN, OTHER)}
        self.key_path = directory / "identity" / "sealing.key"
        self.key_path.parent.mkdir()
        self.key_path.write_bytes(keys[VAN][0])
        self.model = tiny_bundle(directory / "cloud" / "model", "tiny-3")
        public_keys = {name: public for name, (_, public) in keys.items()}
        self.sealing = SealedReleases(directory / "cloud" / "sealed", directory / "cloud" / "keys", public_keys.get)
        bundle = self.sealing.seal(self.model, 3) if sealed else self.model
        self.third = self.repository.add(bundle, 3)
        self.repository.director.wrapped_keys = self.sealing.wrapped_keys
        self.heard: list[bytes] = []

    @property
    def keys(self) -> FileKeyStore:
        return FileKeyStore(self.key_path)

    def fetch(self) -> Path:
        """Fetch release 3 while somebody listens to every message."""
        deliver = self.server.deliver

        def heard(sha256: str, n: int, block: FileBlock) -> None:
            self.heard.append(block.data)
            deliver(sha256, n, block)

        self.server.deliver = heard
        return self.delivery.fetch(self.third, VARIANT, slot=SLOT)

    def installed(self) -> Path:
        return self.store.install(SLOT, self.third, self.fetch())

    def files(self) -> list[bytes]:
        """All that lies on the vehicle."""
        folders = [self.directory / name for name in ("state", "trust", "releases", "identity")]
        return [path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()]


def windows(content: bytes) -> list[bytes]:
    """Pieces of the weights that are the same nowhere else."""
    return [content[at : at + WINDOW_BYTES] for at in range(2000, len(content) - 2000, 97)]


def leaked(model: Bundle, places: Iterable[bytes]) -> int:
    """How many pieces of the model's weights stand in clear in any of these places."""
    seen = b"\n".join(places)
    return sum(window in seen for window in windows(model.path(WEIGHTS).read_bytes()))


def answers(directory: Path, ref: ReleaseRef, keys: FileKeyStore | None) -> list[float]:
    model = load_model(directory, VARIANT, ref, keys=keys)
    image = np.linspace(-2.0, 2.0, 32 * 32 * 3, dtype=np.float32).reshape(1, 32, 32, 3)
    (logits,) = model.run((image,))
    model.close()
    return [float(value) for value in logits[0]]


def test_a_sealed_release_is_fetched_tested_installed_and_runs(tmp_path: Path) -> None:
    vehicle = SealedVehicle(tmp_path)
    staged = vehicle.fetch()
    check = Check(directory=str(staged), variant=VARIANT)
    SubprocessSelfTest(sealing_key=vehicle.key_path)(check, lambda: False)
    directory = vehicle.store.install(SLOT, vehicle.third, staged)
    assert answers(directory, vehicle.third, vehicle.keys) == answers(
        vehicle.model.directory, _clear(vehicle.model), None
    )


def _clear(model: Bundle) -> ReleaseRef:
    return ReleaseRef(task=TASK, release=9, version="tiny-3", manifest_sha256=model.manifest_sha256)


# Eavesdropping.


def test_eavesdrop_what_goes_over_the_broker_has_no_weights_in_it(tmp_path: Path) -> None:
    vehicle = SealedVehicle(tmp_path)
    vehicle.installed()
    assert len(b"".join(vehicle.heard)) > len(vehicle.model.path(WEIGHTS).read_bytes())
    assert leaked(vehicle.model, vehicle.heard) == 0


def test_eavesdrop_hears_the_weights_of_a_release_in_clear(tmp_path: Path) -> None:
    """What the test before would find where nothing were sealed."""
    vehicle = SealedVehicle(tmp_path, sealed=False)
    vehicle.installed()
    assert leaked(vehicle.model, vehicle.heard) == len(windows(vehicle.model.path(WEIGHTS).read_bytes())) > 100


def test_weights_are_never_in_clear_on_the_vehicles_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vehicle = SealedVehicle(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "state"))
    staged = vehicle.fetch()
    SubprocessSelfTest(sealing_key=vehicle.key_path)(Check(directory=str(staged), variant=VARIANT), lambda: False)
    directory = vehicle.store.install(SLOT, vehicle.third, staged)
    model = load_model(directory, VARIANT, vehicle.third, keys=vehicle.keys)
    assert leaked(vehicle.model, vehicle.files()) == 0
    model.close()
    vehicle.delivery.discard([])
    assert leaked(vehicle.model, vehicle.files()) == 0


def test_weights_in_clear_are_found_on_the_vehicles_disk(tmp_path: Path) -> None:
    """What the test before would find where nothing were sealed."""
    vehicle = SealedVehicle(tmp_path, sealed=False)
    vehicle.installed()
    assert leaked(vehicle.model, vehicle.files()) > 100


def test_another_vehicles_content_key_does_not_open_it(tmp_path: Path) -> None:
    vehicle = SealedVehicle(tmp_path)
    vehicle.repository.director.wrapped_keys = lambda _, ref: vehicle.sealing.wrapped_keys(OTHER, ref)
    staged = vehicle.fetch()
    with pytest.raises(BundleError, match="was not wrapped for"):
        SubprocessSelfTest(sealing_key=vehicle.key_path)(Check(directory=str(staged), variant=VARIANT), lambda: False)
    with pytest.raises(BundleError, match="was not wrapped for"):
        load_model(staged, VARIANT, vehicle.third, keys=vehicle.keys)


def test_without_keys_a_sealed_release_says_that_it_is_one(tmp_path: Path) -> None:
    vehicle = SealedVehicle(tmp_path)
    staged = vehicle.fetch()
    with pytest.raises(BundleError, match="is sealed, and opens only on a vehicle of its fleet"):
        load_model(staged, VARIANT, vehicle.third)


@pytest.mark.parametrize("mine", [True, False])
def test_a_sealed_candidate_runs_in_the_shadow_with_its_own_key_alone(tmp_path: Path, mine: bool) -> None:
    vehicle = SealedVehicle(tmp_path)
    if not mine:
        vehicle.repository.director.wrapped_keys = lambda _, ref: vehicle.sealing.wrapped_keys(OTHER, ref)
    spawn = spawner(VARIANT, CPU_PROVIDERS, vehicle.key_path)
    process, sock = spawn(vehicle.installed(), vehicle.model.directory)
    with sock:
        sock.settimeout(60)
        answer = receive_answer(sock)
    process.wait()
    if mine:
        assert isinstance(answer, Ready)
    else:
        assert isinstance(answer, Failed) and "was not wrapped for" in answer.detail


# The content key on its way and on disk.

GIVEN: dict[str, Callable[[str], dict[str, str]]] = {
    "none": lambda key: {},
    "empty": lambda key: {"content": ""},
    "no-base64": lambda key: {"content": "?" + key[1:]},
    "truncated": lambda key: {"content": key[:-4]},
}


@pytest.mark.parametrize("given", sorted(GIVEN))
def test_a_sealed_release_without_a_content_key_waits(tmp_path: Path, given: str) -> None:
    """Not the release is at fault: the next desired state tries again."""
    vehicle = SealedVehicle(tmp_path)
    key = vehicle.sealing.wrapped_keys(VAN, vehicle.third)["content"]
    vehicle.repository.director.wrapped_keys = lambda _, ref: GIVEN[given](key)
    with pytest.raises(MetadataError, match="content key"):
        vehicle.fetch()
    vehicle.repository.director.wrapped_keys = vehicle.sealing.wrapped_keys
    vehicle.installed()


def test_a_release_in_clear_needs_no_content_key(tmp_path: Path) -> None:
    vehicle = SealedVehicle(tmp_path, sealed=False)
    directory = vehicle.installed()
    assert not (directory / KEY_FILE).exists()
    answers(directory, vehicle.third, vehicle.keys)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_a_damaged_content_key_gives_way_to_the_release_before_and_is_mended(tmp_path: Path, damage: str) -> None:
    vehicle = SealedVehicle(tmp_path)
    path = vehicle.installed() / KEY_FILE
    vehicle.store.begin_trials({SLOT: Trial(vehicle.third, Policy())})
    assert vehicle.store.load_for_start(SLOT).ref == vehicle.third
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[:-1] if damage == "truncated" else bytes([content[0] ^ 1]) + content[1:])
    assert vehicle.store.load_for_start(SLOT).ref == vehicle.first
    open_version(vehicle.installed(), vehicle.third, VARIANT)


# In the cloud.


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    (tmp_path / "workspace").mkdir()
    return Registry(tmp_path / "workspace").create()


def test_a_release_is_published_sealed_and_stays_so(registry: Registry, tmp_path: Path) -> None:
    model = opaque_bundle(tmp_path / "made", "v1", 5000)
    registry.models.register(model.directory)
    release = registry.releases.publish(TASK, "v1", sealed=True)
    again = registry.releases.publish(TASK, "v1")
    assert release.sealed and again.manifest_sha256 == release.manifest_sha256 != model.manifest_sha256
    published = registry.releases.published_bundle(release)
    assert published.manifest_sha256 == release.manifest_sha256
    assert published.manifest.training_weights is None
    client = Client(registry.root / "repository", tmp_path / "client")
    for name in ("model.onnx", "model.tflite"):
        sent = client.download(f"{TASK}/1/{name}")
        clear = model.path(name).read_bytes()
        assert len(sent) == len(clear) + 28 and not any(window in sent for window in windows(clear))
    assert client.download(f"{TASK}/1/labels.txt") == model.path("labels.txt").read_bytes()
    assert registry.releases.bundle(release).read("model.onnx") == model.path("model.onnx").read_bytes()
    with pytest.raises(ConflictError, match="published sealed as release 1"):
        registry.releases.publish(TASK, "v1", sealed=False)
    other = registry.releases.publish(TASK, "v1", sealed=False, again=True)
    assert (other.release, other.sealed, other.manifest_sha256) == (2, False, model.manifest_sha256)


def test_content_keys_are_read_by_their_owner_alone(registry: Registry, tmp_path: Path) -> None:
    registry.sealing.seal(opaque_bundle(tmp_path / "made", "v1"), 1)
    (path,) = [path for path in (registry.root / "keys" / "content").rglob("*") if path.is_file()]
    assert path.stat().st_mode & 0o777 == 0o600 and len(path.read_bytes()) == 32


def test_a_kill_while_a_release_is_sealed_is_made_good(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from roadloop_cloud.registry import sealing

    model = opaque_bundle(tmp_path / "made", "v1")

    def dies(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(sealing, "move_tree_durably", dies)
        registry.sealing.seal(model, 1)
    sealed = registry.sealing.seal(model, 1)
    assert registry.sealing.seal(model, 1) == sealed


def test_sealed_releases_have_no_patches(registry: Registry, tmp_path: Path) -> None:
    first = opaque_bundle(tmp_path / "a", "v1", 20_000)
    second = opaque_bundle(tmp_path / "b", "v2", 20_000, tuned_from=first)
    third = opaque_bundle(tmp_path / "c", "v3", 20_000, tuned_from=second)
    for model, sealed in ((first, False), (second, True), (third, False)):
        registry.models.register(model.directory)
        registry.releases.publish(TASK, model.manifest.version, sealed=sealed)
    patches = [name for name in registry.repository.targets() if ".from-" in name]
    assert {name.split("/")[1] for name in patches} == {"3"}
    assert not any(second.manifest.file_entry("model.onnx").sha256[:16] in name for name in patches)


def test_a_vehicle_may_begin_with_a_sealed_release(registry: Registry, tmp_path: Path) -> None:
    model = tiny_bundle(tmp_path / "model", "tiny-1")
    registry.models.register(model.directory)
    release = registry.releases.publish(TASK, "tiny-1", sealed=True)
    initial = InitialRelease(release_ref(release), registry.releases.published_bundle(release))
    authority = Authority(tmp_path / "ca")
    authority.create("fleet")
    vehicles = Vehicles(
        registry.database,
        authority,
        lambda task: initial,
        lambda tasks: {},
        BrokerConfig(),
        wrapped_key=registry.sealing.wrapped_for,
    )
    folder = tmp_path / VAN
    vehicles.add(VAN, Profile("p", "", "h", {SLOT: TASK}), folder)
    store = Store(folder / "state" / "store", {SLOT: VARIANT}, folder)
    store.provision(lambda refs: None)
    version = store.load_for_start(SLOT)
    keys = FileKeyStore(folder / "identity" / "sealing.key")
    assert answers(version.directory, version.ref, keys) == answers(model.directory, _clear(model), None)
    assert leaked(model, [path.read_bytes() for path in folder.rglob("*") if path.is_file()]) == 0
