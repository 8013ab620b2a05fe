"""The CA, the broker's configuration and the folder that provisions a vehicle."""

import json
import ssl
import stat
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from roadloop_cloud.broker import access_list, configuration, ingest_name
from roadloop_cloud.config import BrokerConfig, Config
from roadloop_cloud.identity.authority import RENEW_BEFORE, Authority
from roadloop_cloud.identity.provisioning import (
    InitialRelease,
    Profile,
    Provisioning,
    load_profile,
    write_provisioning,
)
from roadloop_cloud.store.database import Database
from roadloop_cloud.vehicles import Vehicles
from roadloop_cloud.workspace import Workspace
from roadloop_models.bundle import Bundle
from roadloop_models.contract.messages import ReleaseRef
from roadloop_models.errors import BadInputError, ConfigError, ConflictError, NotFoundError
from tests.fakes.bundles import tiny_bundle
from tests.fakes.cloud import fresh_database

PROFILE = 'hardware = "x86-64"\n[slots.sign]\ntask = "traffic-sign"\nruntime = "onnx"\n'


class Clock:
    """Wall time that the test moves."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "ca")
    made.create("Roadloop test")
    return made


def test_a_client_certificate_has_the_name_it_was_given_and_can_do_nothing_else(authority: Authority) -> None:
    certificate = x509.load_pem_x509_certificate(authority.issue_client("van-1").certificate)
    ca = x509.load_pem_x509_certificate(authority.certificate_path.read_bytes())
    certificate.verify_directly_issued_by(ca)
    assert [name.value for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["van-1"]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert certificate.not_valid_after_utc - datetime.now(UTC) < timedelta(days=91)


def test_keys_are_their_owners_alone_and_a_ca_is_never_replaced(tmp_path: Path, authority: Authority) -> None:
    assert stat.S_IMODE((tmp_path / "ca" / "ca.key").stat().st_mode) == 0o600
    authority.ensure_client("van-1", tmp_path / "c.crt", tmp_path / "c.key")
    assert stat.S_IMODE((tmp_path / "c.key").stat().st_mode) == 0o600
    with pytest.raises(ConflictError):
        authority.create("again")


def test_identities_are_renewed_before_they_end_and_not_earlier(tmp_path: Path) -> None:
    clock = Clock()
    authority = Authority(tmp_path / "ca", clock)
    authority.create("Roadloop test")
    certificate, key = tmp_path / "c.crt", tmp_path / "c.key"
    authority.ensure_client("cloud-fleet", certificate, key)
    first = certificate.read_bytes()
    clock.now += timedelta(days=90) - RENEW_BEFORE - timedelta(hours=1)
    authority.ensure_client("cloud-fleet", certificate, key)
    assert certificate.read_bytes() == first
    clock.now += timedelta(hours=2)
    authority.ensure_client("cloud-fleet", certificate, key)
    assert certificate.read_bytes() != first
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key)


def test_the_brokers_certificate_follows_its_host_names(tmp_path: Path, authority: Authority) -> None:
    certificate, key = tmp_path / "b.crt", tmp_path / "b.key"
    authority.ensure_server("broker", ["localhost", "127.0.0.1"], certificate, key)
    first = certificate.read_bytes()
    authority.ensure_server("broker", ["localhost", "127.0.0.1"], certificate, key)
    assert certificate.read_bytes() == first
    authority.ensure_server("broker", ["fleet.example.com"], certificate, key)
    names = x509.load_pem_x509_certificate(certificate.read_bytes()).extensions
    found = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.DNSName) == ["fleet.example.com"]


def test_revocations_add_up(tmp_path: Path, authority: Authority) -> None:
    serials = set()
    for name in ("a", "b", "a"):
        authority.ensure_client(name, tmp_path / f"{name}.crt", tmp_path / f"{name}.key")
        serials.add(x509.load_pem_x509_certificate((tmp_path / f"{name}.crt").read_bytes()).serial_number)
        authority.revoke(tmp_path / f"{name}.crt")
    revoked = x509.load_pem_x509_crl(authority.revocations_path.read_bytes())
    assert {entry.serial_number for entry in revoked} == serials
    ca = x509.load_pem_x509_certificate(authority.certificate_path.read_bytes())
    assert revoked.next_update_utc == ca.not_valid_after_utc


def test_a_missing_ca_key_is_named(tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "ca" / "ca.key").unlink()
    with pytest.raises(ConfigError, match=r"ca\.key"):
        authority.issue_client("van-1")


def test_the_access_list_gives_each_only_what_it_needs() -> None:
    blocks: dict[str, list[str]] = {"": []}
    user = ""
    for line in access_list().splitlines():
        if line.startswith("user "):
            user = line.removeprefix("user ")
            blocks[user] = []
        elif line and not line.startswith("#"):
            blocks[user].append(line)
    assert blocks[""] == [
        "pattern write roadloop/v1/%u/up/#",
        "pattern read roadloop/v1/%u/down/#",
        "pattern read roadloop/v1/_all/#",
    ]
    assert blocks["cloud-ingest-16"] == [
        "topic read roadloop/v1/+/up/t/+",
        "topic read roadloop/v1/+/up/lost",
        "topic read roadloop/v1/+/up/blob/+/+",
        "topic read roadloop/v1/+/up/sketch",
        "topic write roadloop/v1/+/down/cursor",
    ]
    assert not [line for line in blocks["cloud-fleet"] if "cursor" in line or "up/t" in line]
    assert len(blocks) == 18


def test_the_broker_listens_only_where_it_is_told_and_only_to_certificates(tmp_path: Path) -> None:
    config = Config(broker=BrokerConfig(host="fleet.example.com", port=1234, bind="10.0.0.1"))
    lines = configuration(Workspace(tmp_path, config), "alice").splitlines()
    assert [line for line in lines if line.startswith("listener")] == ["listener 1234 10.0.0.1"]
    for needed in ("require_certificate true", "use_username_as_clientid true", "allow_anonymous false", "user alice"):
        assert needed in lines
    assert not [
        line for line in configuration(Workspace(tmp_path, config), None).splitlines() if line.startswith("user")
    ]


def test_there_are_only_so_many_ingest_processes() -> None:
    with pytest.raises(ConfigError, match="1 to 16"):
        ingest_name(17)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[slots.a]\ntask = 'x'", "'hardware'"),
        ("hardware = 'x'", "no \\[slots"),
        ("hardware = 'x'\n[slots.a]\nrate_hz = 1", "slots.a: 'task'"),
        ("hardware =", "bad.toml"),
    ],
)
def test_a_profile_that_lacks_something_says_what(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(ConfigError, match=expected):
        load_profile(str(tmp_path / "bad.toml"))


def test_an_unknown_profile_lists_the_packaged_ones() -> None:
    with pytest.raises(ConfigError, match="no such file, and the packaged ones are"):
        load_profile("no-such-profile")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "bundle")


@pytest.fixture
def release(bundle: Bundle) -> InitialRelease:
    ref = ReleaseRef(
        task="traffic-sign", release=1, version=bundle.manifest.version, manifest_sha256=bundle.manifest_sha256
    )
    return InitialRelease(ref, bundle)


@pytest.fixture
def vehicles(tmp_path: Path, authority: Authority, release: InitialRelease) -> Vehicles:
    def initial_release(task: str) -> InitialRelease:
        if task != "traffic-sign":
            raise NotFoundError(f"task {task} has no release")
        return release

    trust = {"root.json": b"{}", "metadata/root.json": b"{}"}
    return Vehicles(
        fresh_database(tmp_path),
        authority,
        initial_release,
        lambda tasks: trust,
        BrokerConfig(port=1883),
        wrapped_key=lambda public_key, ref: None,
    )


def profile(tmp_path: Path, text: str = PROFILE) -> Profile:
    (tmp_path / "profile.toml").write_text(text)
    return load_profile(str(tmp_path / "profile.toml"))


def test_the_folder_has_all_that_a_vehicle_starts_with(
    tmp_path: Path, vehicles: Vehicles, release: InitialRelease
) -> None:
    folder = tmp_path / "van-1"
    vehicles.add("van-1", profile(tmp_path), folder, ["test", "a"])
    raw = tomllib.loads((folder / "vehicle.toml").read_text())
    private_key = load_pem_private_key((folder / "identity" / "sealing.key").read_bytes(), None)
    assert isinstance(private_key, X25519PrivateKey)
    assert vehicles.get("van-1").sealing_key == private_key.public_key().public_bytes_raw()
    assert (folder / "identity" / "sealing.key").stat().st_mode & 0o777 == 0o600
    assert raw["vehicle"] == {"id": "van-1", "profile": "profile.toml", "state_dir": "state"}
    assert (raw["broker"]["host"], raw["broker"]["port"]) == ("127.0.0.1", 1883)
    for name in ("ca", "certificate", "key"):
        assert (folder / raw["broker"][name]).is_file()
    assert stat.S_IMODE((folder / "identity" / "vehicle.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / "profile.toml").read_text() == PROFILE
    assert (folder / "trust" / "metadata" / "root.json").is_file()
    slots = json.loads((folder / "releases.json").read_text())["slots"]
    assert slots["sign"]["manifest_sha256"] == release.ref.manifest_sha256
    installed = Bundle.open(folder / "releases" / release.ref.manifest_sha256, "onnx-int8")
    assert installed.manifest_sha256 == release.ref.manifest_sha256
    assert vehicles.get("van-1").tags == ["a", "test"]


def test_a_vehicle_is_added_once_and_never_into_a_folder_in_use(tmp_path: Path, vehicles: Vehicles) -> None:
    vehicles.add("van-1", profile(tmp_path), tmp_path / "van-1")
    with pytest.raises(ConflictError, match="van-1 exists"):
        vehicles.add("van-1", profile(tmp_path), tmp_path / "elsewhere")
    with pytest.raises(ConflictError, match="not empty"):
        vehicles.add("van-2", profile(tmp_path), tmp_path / "van-1")
    assert [row.id for row in vehicles.list()] == ["van-1"]
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("vehicle_id", ["cloud-fleet", "cloud-ingest-1", "_all", "Van", "a/b", "+", "", "x" * 41])
def test_a_name_that_means_something_else_is_refused(tmp_path: Path, vehicles: Vehicles, vehicle_id: str) -> None:
    with pytest.raises(BadInputError, match="vehicle id"):
        vehicles.add(vehicle_id, profile(tmp_path), tmp_path / "v")
    assert not (tmp_path / "v").exists()


def test_a_failure_leaves_neither_folder_nor_vehicle(tmp_path: Path, vehicles: Vehicles, bundle: Bundle) -> None:
    (bundle.directory / "labels.txt").write_text("tampered\n")
    with pytest.raises(BadInputError, match=r"labels\.txt"):
        vehicles.add("van-1", profile(tmp_path), tmp_path / "van-1")
    assert vehicles.list() == []
    assert not list(tmp_path.glob("*van-1*"))


def test_a_profile_with_a_task_that_has_no_release_is_refused(tmp_path: Path, vehicles: Vehicles) -> None:
    with pytest.raises(NotFoundError, match="traffic-speed"):
        vehicles.add("van-1", profile(tmp_path, PROFILE.replace("traffic-sign", "traffic-speed")), tmp_path / "van-1")


def test_tags_come_and_go(tmp_path: Path, vehicles: Vehicles) -> None:
    vehicles.add("van-1", profile(tmp_path), tmp_path / "van-1", ["b"])
    assert vehicles.tag("van-1", ["a", "b"], []).tags == ["a", "b"]
    assert vehicles.tag("van-1", [], ["b", "never"]).tags == ["a"]
    assert [row.id for row in vehicles.list("a")] == ["van-1"]
    assert vehicles.list("b") == []
    with pytest.raises(BadInputError, match="tag"):
        vehicles.tag("van-1", ["with space"], [])
    with pytest.raises(NotFoundError, match="vehicles list"):
        vehicles.tag("van-9", ["a"], [])


def test_a_half_written_folder_of_a_kill_is_replaced(
    tmp_path: Path, authority: Authority, release: InitialRelease
) -> None:
    (tmp_path / ".van-1.part" / "identity").mkdir(parents=True)
    provisioning = Provisioning(
        vehicle="van-1",
        broker_host="h",
        broker_port=1,
        profile=profile(tmp_path),
        identity=authority.issue_client("van-1"),
        authority=b"",
        sealing_key=b"",
        trust={},
        releases={"sign": release, "sign-rear": release},
    )
    write_provisioning(tmp_path / "van-1", provisioning)
    assert not (tmp_path / ".van-1.part").exists()
    assert len(list((tmp_path / "van-1" / "releases").iterdir())) == 1


def test_the_database_url_of_another_kind_is_named() -> None:
    with pytest.raises(ConfigError, match="postgresql"):
        Database("nonsense")
