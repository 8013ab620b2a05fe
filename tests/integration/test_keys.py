"""Keys are rotated, revoked and used elsewhere while vehicles go on: the cloud's repository and the vehicle's Trust."""

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from roadloop_agent.update.refused import MetadataError
from roadloop_cloud import files
from roadloop_cloud.registry import repository as repository_module
from roadloop_cloud.registry.ceremonies import read_public_key, show_request, sign_request, write_public_key
from roadloop_cloud.registry.director_keys import DIRECTOR_ROLES, PREFIX
from roadloop_cloud.registry.keys import KeyFolder
from roadloop_cloud.registry.releases import release_ref
from roadloop_models.contract.messages import Desired
from roadloop_models.errors import BadInputError, ConfigError, ConflictError, NotFoundError, TrustError
from tests.fakes.key_rig import OTHER_TASK, KeyRig, manifest_name
from tests.fakes.opaque_bundles import TASK

pytestmark = pytest.mark.usefixtures("fast_disk")

ROLES = ("root", "targets", TASK, "snapshot", "timestamp")


@pytest.fixture
def rig(tmp_path: Path) -> KeyRig:
    return KeyRig(tmp_path)


def keyid(rig: KeyRig, role: str) -> str:
    (status,) = [status for status in rig.repository.status() if status.role == role]
    return status.key_ids[0]


# Delegation.


def test_a_vehicle_fetches_the_roles_of_its_own_tasks_only(rig: KeyRig) -> None:
    vehicle = rig.vehicle("van", [])
    ref = rig.publish(TASK)
    rig.publish(OTHER_TASK)
    vehicle.finds(ref)
    assert any(TASK in url for url in vehicle.fetcher.asked)
    assert not any(OTHER_TASK in url for url in vehicle.fetcher.asked)
    vehicle.fetcher.asked.clear()
    vehicle.finds(ref)
    assert vehicle.fetcher.asked == ["metadata/2.root.json", "metadata/timestamp.json"], "a check when nothing is new"


def test_what_is_provisioned_is_checked_against_the_key_of_its_task(rig: KeyRig) -> None:
    first = rig.publish(TASK)
    rig.publish(OTHER_TASK)
    vehicle = rig.vehicle("van", [TASK])
    vehicle.verify(first)
    assert not (vehicle.folder / "trust" / "metadata" / f"{OTHER_TASK}.json").exists()
    role = vehicle.folder / "trust" / "metadata" / f"{TASK}.json"
    role.write_bytes(role.read_bytes().replace(first.manifest_sha256.encode(), b"0" * 64))
    with pytest.raises(TrustError, match=f"{TASK} was signed by 0/1"):
        vehicle.verify(first)


def test_the_key_of_one_task_signs_nothing_of_another(rig: KeyRig) -> None:
    """What a stolen task key can do ends with its task."""
    rig.publish(TASK)
    rig.publish(OTHER_TASK)
    vehicle = rig.vehicle("van", [TASK, OTHER_TASK])
    thief = rig.registry.offline.at_hand()[OTHER_TASK]
    forged = rig.repository.prepare(lambda change: change._edit_task(TASK).targets.clear()).changed[TASK]
    forged.sign(thief)
    name = f"{forged.signed.version}.{TASK}.json"
    (rig.folder / "ws" / "repository" / "metadata" / name).write_bytes(forged.to_bytes())
    online = rig.registry.online.signers()
    rig.forge(online.values(), 50, 50, **{TASK: forged.signed.version})
    with pytest.raises(MetadataError, match=f"{TASK} was signed by 0/1"):
        vehicle.trust.refresh().find(f"{TASK}/1/manifest.json")


def test_a_task_that_is_rolled_back_is_refused_even_where_the_client_lost_its_memory(rig: KeyRig) -> None:
    rig.publish(TASK)
    vehicle = rig.vehicle("van", [TASK])
    vehicle.finds(rig.publish(TASK))
    vehicle.forget()
    rig.forge(rig.registry.online.signers().values(), 50, 50, **{TASK: 1})
    with pytest.raises(MetadataError, match=f"{TASK}: version 1 is offered, 2 was seen before: rollback"):
        vehicle.trust.refresh()


# Rotation and revocation.


@pytest.mark.parametrize("role", ROLES)
def test_a_rotated_key_is_followed_by_vehicles_that_knew_the_old_one(rig: KeyRig, role: str) -> None:
    vehicle = rig.vehicle("van", [])
    vehicle.finds(rig.publish(TASK))
    old = keyid(rig, role)
    rig.ceremonies.rotate(role, None)
    assert keyid(rig, role) != old
    vehicle.finds(rig.publish(TASK))
    rig.vehicle("new", [TASK]).finds(rig.publish(TASK))
    folder = rig.registry.online if role in ("snapshot", "timestamp") else rig.registry.offline
    assert old not in folder.names(), "the old key is put aside"
    assert (folder.directory / "retired" / f"{role}@{old[:8]}.pem").exists()


def test_a_vehicle_that_was_away_walks_the_chain_of_roots(rig: KeyRig) -> None:
    ref = rig.publish(TASK)
    vehicle = rig.vehicle("van", [TASK])
    for role in ("root", "timestamp", "root", "targets", "snapshot", "root"):
        rig.ceremonies.rotate(role, None)
    vehicle.finds(ref)
    assert [url for url in vehicle.fetcher.asked if "root" in url] == [f"metadata/{n}.root.json" for n in range(2, 9)]


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_what_a_revoked_key_signs_is_refused_by_vehicles_that_saw_the_new_root(rig: KeyRig, role: str) -> None:
    ref = rig.publish(TASK)
    vehicle, away = rig.vehicle("van", [TASK]), rig.vehicle("away", [TASK])
    stolen = rig.registry.online.signers()
    rig.ceremonies.revoke(role, keyid(rig, role)[:8], None)
    vehicle.finds(ref)
    rig.forge(stolen.values(), 50, 50)
    with pytest.raises(MetadataError, match=f"{role} was signed by 0/1"):
        vehicle.trust.refresh()
    with pytest.raises(MetadataError, match=f"{role} was signed by 0/1"):
        away.trust.refresh()


def test_what_a_revoked_task_key_signs_is_refused(rig: KeyRig) -> None:
    ref = rig.publish(TASK)
    vehicle = rig.vehicle("van", [TASK])
    stolen = rig.registry.offline.at_hand()[TASK]
    rig.ceremonies.revoke(TASK, keyid(rig, TASK), None)
    vehicle.finds(ref)
    forged = rig.repository.prepare(lambda change: change._edit_task(TASK).targets.clear()).changed[TASK]
    forged.sign(stolen)
    name = f"{forged.signed.version}.{TASK}.json"
    (rig.folder / "ws" / "repository" / "metadata" / name).write_bytes(forged.to_bytes())
    rig.forge(rig.registry.online.signers().values(), 50, 50, **{TASK: forged.signed.version})
    with pytest.raises(MetadataError, match=f"{TASK} was signed by 0/1"):
        vehicle.finds(ref)


def test_vehicles_recover_from_versions_that_a_thief_drove_up(rig: KeyRig) -> None:
    """Fast-forward: with stolen online keys a version is signed that no honest one exceeds; new keys heal it."""
    ref = rig.publish(TASK)
    vehicle = rig.vehicle("van", [TASK])
    metadata = rig.folder / "ws" / "repository" / "metadata"
    honest = (metadata / "timestamp.json").read_bytes()
    rig.forge(rig.registry.online.signers().values(), 2_000_000, 2_000_000)
    vehicle.finds(ref)
    (metadata / "timestamp.json").write_bytes(honest)
    with pytest.raises(MetadataError, match="version"):
        vehicle.trust.refresh()
    rig.ceremonies.rotate("timestamp", None)
    rig.ceremonies.rotate("snapshot", None)
    vehicle.finds(ref)


@pytest.mark.parametrize("role", ROLES)
def test_no_vehicle_is_left_without_trust_wherever_a_rotation_dies(
    rig: KeyRig, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before each write: one that knows the old root, and a new one, both believe what is there."""
    ref = rig.publish(TASK)
    real = files.write_atomic
    writes = 0
    for allowed in range(9):
        left = allowed

        def write(path: Path, content: bytes, mode: int = 0o644) -> None:
            nonlocal left, writes
            if not left:
                raise KeyboardInterrupt
            left, writes = left - 1, writes + 1
            real(path, content, mode)

        known = rig.vehicle(f"known-{allowed}", [TASK])
        known.finds(ref)
        try:
            with monkeypatch.context() as patch:
                patch.setattr(repository_module, "write_atomic", write)
                rig.ceremonies.rotate(role, None)
            done = True
        except KeyboardInterrupt:
            done = False
        known.finds(ref)
        rig.vehicle(f"new-{allowed}", [TASK]).finds(ref)
        if done:
            break
    assert done and writes > 3
    known.finds(rig.publish(TASK))


def test_the_service_signs_anew_where_a_new_root_has_other_keys(rig: KeyRig) -> None:
    """The old key was lost, so that only the new one signed, and the writer died before the new root was there."""
    ref = rig.publish(TASK)
    vehicle = rig.vehicle("van", [TASK])
    metadata = rig.folder / "ws" / "repository" / "metadata"
    old = (metadata / "timestamp.json").read_bytes()
    rig.ceremonies.rotate("timestamp", None)
    (metadata / "timestamp.json").write_bytes(old)  # of the old key alone
    with pytest.raises(MetadataError, match="timestamp was signed by 0/1"):
        vehicle.finds(ref)
    assert rig.registry.releases.renew_online() is True
    vehicle.finds(ref)


def test_keys_that_are_not_there_are_named_and_nothing_changes(rig: KeyRig) -> None:
    rig.publish(TASK)
    rig.registry.offline.directory.rename(rig.folder / "stick")
    before = rig.repository.status()
    with pytest.raises(ConfigError, match=r"root lacks 1 signature.*--request"):
        rig.ceremonies.rotate("timestamp", None)
    with pytest.raises(NotFoundError, match="0 keys begin with 'abcdefgh'"):
        rig.ceremonies.revoke("timestamp", "abcdefgh", None)
    with pytest.raises(NotFoundError, match="no role lane"):
        rig.ceremonies.rotate("lane", None)
    assert rig.repository.status() == before
    assert rig.registry.online.names().keys() >= {keyid(rig, "timestamp")}
    assert len(list(rig.registry.online.directory.glob("timestamp*"))) == 1, "the new key is put aside"


# Keys that are kept elsewhere.


@pytest.fixture
def stick(rig: KeyRig) -> KeyFolder:
    """The offline keys on another machine; the workspace has none."""
    rig.publish(TASK)
    rig.registry.offline.directory.rename(rig.folder / "stick")
    return KeyFolder(rig.folder / "stick", ())


def test_a_release_is_signed_where_its_key_is(rig: KeyRig, stick: KeyFolder) -> None:
    request = rig.folder / "request.json"
    vehicle = rig.vehicle("van", [TASK])
    ref = rig.publish(TASK, request)
    with pytest.raises(TrustError, match="not among the signed targets"):
        vehicle.finds(ref)
    with pytest.raises(ConfigError, match=f"{TASK} lacks 1 signature"):
        rig.ceremonies.import_signed(request)
    assert any(manifest_name(ref) in line for shown in show_request(request, stick) for line in shown.lines)
    added, lacking = sign_request(request, stick)
    assert [role for role, _ in added] == [TASK] and not lacking
    rig.ceremonies.import_signed(request)
    assert [row.release for row in rig.registry.releases.complete()] == [ref.release]
    assert rig.registry.releases.get(TASK, ref.release).published
    vehicle.finds(ref)
    with pytest.raises(ConflictError, match="already was"):
        rig.ceremonies.import_signed(request)


@pytest.mark.parametrize("role", ROLES)
def test_a_key_is_rotated_without_the_offline_keys_ever_being_here(
    rig: KeyRig, stick: KeyFolder, role: str, tmp_path: Path
) -> None:
    vehicle = rig.vehicle("van", [TASK])
    request, public = tmp_path / "request.json", None
    if role not in ("snapshot", "timestamp"):
        with pytest.raises(BadInputError, match=f"roadloop keys new {role}"):
            rig.ceremonies.rotate(role, None, request)
        write_public_key(tmp_path / "new.pub", stick.add(role))
        public = read_public_key(tmp_path / "new.pub")
    old = keyid(rig, role)
    rig.ceremonies.rotate(role, public, request)
    assert keyid(rig, role) == old, "nothing is published yet"
    sign_request(request, stick)
    rig.ceremonies.import_signed(request)
    assert keyid(rig, role) != old
    (release,) = rig.registry.releases.list(TASK)
    vehicle.finds(release_ref(release))
    assert not rig.registry.offline.directory.exists()


def test_two_of_three_people_sign_for_root(rig: KeyRig, tmp_path: Path) -> None:
    ref = rig.publish(TASK)
    people = [KeyFolder(tmp_path / name, ()) for name in ("ann", "ben")]
    first, second = (person.add("root") for person in people)
    rig.ceremonies.add("root", first, None)
    request = tmp_path / "request.json"
    with pytest.raises(ConfigError, match="root lacks 1 signature"):
        rig.ceremonies.add("root", second, 2)
    rig.ceremonies.add("root", second, 2, request)
    assert not sign_request(request, people[1])[1]
    rig.ceremonies.import_signed(request)
    rig.registry.offline.directory.rename(rig.folder / "safe")
    rig.ceremonies.rotate("timestamp", None, request)
    _, lacking = sign_request(request, people[0])
    assert [(one.role, one.count) for one in lacking] == [("root", 1), ("root", 1)]
    with pytest.raises(ConfigError, match="root lacks 1 signature"):
        rig.ceremonies.import_signed(request)
    assert not sign_request(request, people[1])[1]
    rig.ceremonies.import_signed(request)
    rig.vehicle("van", [TASK]).finds(ref)


def test_a_new_task_gets_its_role_from_afar(rig: KeyRig, stick: KeyFolder, tmp_path: Path) -> None:
    request = tmp_path / "request.json"
    with pytest.raises(ConfigError, match=f"roadloop keys delegate {OTHER_TASK}"):
        rig.publish(OTHER_TASK, request)
    rig.ceremonies.delegate(OTHER_TASK, stick.add(OTHER_TASK), request)
    sign_request(request, stick)
    rig.ceremonies.import_signed(request)
    ref = rig.publish(OTHER_TASK, request)
    sign_request(request, stick)
    rig.ceremonies.import_signed(request)
    rig.vehicle("van", [OTHER_TASK]).finds(ref)
    with pytest.raises(ConflictError, match="has its role already"):
        rig.ceremonies.delegate(OTHER_TASK, None)


def test_a_request_that_was_overtaken_is_refused(rig: KeyRig, tmp_path: Path) -> None:
    rig.publish(TASK)
    request = tmp_path / "request.json"
    rig.ceremonies.renew(request)
    rig.publish(TASK)
    with pytest.raises(ConflictError, match="make the request again"):
        rig.ceremonies.import_signed(request)


def test_a_key_may_lie_anywhere_that_a_uri_names(rig: KeyRig, tmp_path: Path) -> None:
    ref = rig.publish(TASK)
    stick = KeyFolder(tmp_path / "stick", ())
    stick.add(TASK)
    (pem,) = (tmp_path / "stick").iterdir()
    public = rig.registry.offline.refer(TASK, f"file2:{pem}")
    rig.ceremonies.rotate(TASK, public)
    rig.vehicle("van", [TASK]).finds(rig.publish(TASK))
    pem.unlink()
    with pytest.raises(ConfigError, match="file2:"):
        rig.publish(TASK)
    rig.vehicle("other", [TASK]).finds(ref)


# The director's keys.


@pytest.mark.parametrize("role", DIRECTOR_ROLES)
def test_a_rotated_key_of_the_director_is_followed_by_vehicles(rig: KeyRig, role: str) -> None:
    ref = rig.publish(TASK)
    rig.registry.directors.assign("van", Desired(version=1, slots={"sign": ref}))
    rig.director("van").refresh()
    old = next(shown for shown in rig.director_keys.show() if shown.role == role).keys[0]
    rig.director_keys.rotate(role.removeprefix(PREFIX), None)
    new = next(shown for shown in rig.director_keys.show() if shown.role == role).keys[0]
    assert new != old and new.file is not None
    assert rig.director("van").refresh().counter == 1
    rig.registry.directors.assign("van", Desired(version=2, slots={"sign": ref}))
    assert rig.director("van").refresh().counter == 2
    rig.director_keys.renew()
    assert rig.director("van").refresh().counter == 2


@pytest.mark.parametrize("role", DIRECTOR_ROLES)
def test_a_key_of_the_director_is_rotated_without_its_root_key_ever_being_here(
    rig: KeyRig, stick: KeyFolder, role: str, tmp_path: Path
) -> None:
    (release,) = rig.registry.releases.list(TASK)
    desired = Desired(version=1, slots={"sign": release_ref(release)})
    rig.registry.directors.assign("van", desired)
    rig.director("van").refresh()
    request = tmp_path / "request.json"
    public = stick.add(role) if role == "director-root" else None
    rig.director_keys.rotate(role.removeprefix(PREFIX), public, request)
    rig.registry.directors._signers_of = 0  # another process, while the new key is here and not yet named
    rig.registry.directors.assign("van", msgspec.structs.replace(desired, version=2))
    assert rig.director("van").refresh().counter == 2
    with pytest.raises(BadInputError, match="concerns the repository director"):
        rig.ceremonies.import_signed(request)
    assert [shown.role for shown in show_request(request, stick)] == ["director-root"]
    assert not sign_request(request, stick)[1]
    rig.director_keys.import_signed(request)
    assert rig.director("van").refresh().counter == 2
    with pytest.raises(ConflictError, match="make the request again"):
        rig.director_keys.import_signed(request)


def test_without_its_root_key_the_director_keeps_its_keys(rig: KeyRig) -> None:
    rig.registry.offline.directory.rename(rig.folder / "stick")
    before = [role.keys for role in rig.director_keys.show()]
    with pytest.raises(ConfigError, match="root lacks 1 signature"):
        rig.director_keys.rotate("targets", None)
    assert [role.keys for role in rig.director_keys.show()] == before


# Expiry.


ONLINE_EXPIRED = {"snapshot": "expired", "timestamp": "expired"}


@pytest.mark.parametrize(
    ("days", "told"),
    [
        (0, {}),
        (60, ONLINE_EXPIRED),
        (70, ONLINE_EXPIRED | {"targets": "expires soon", TASK: "expires soon"}),
        (280, ONLINE_EXPIRED | {"root": "expires soon", "targets": "expired", TASK: "expired"}),
    ],
)
def test_what_expires_is_told_before_it_does(rig: KeyRig, days: int, told: dict[str, str]) -> None:
    rig.publish(TASK)
    rig.later = timedelta(days=days)
    shown = {role.role: role for role in rig.ceremonies.show()}
    assert {name: role.warning.partition(":")[0] for name, role in shown.items() if role.warning} == told
    assert round(shown["root"].days_left or 0) == 365 - days
    assert {line.partition(",")[0] for line in rig.ceremonies.warnings()} == set(told)


def test_the_director_s_root_is_spoken_of_too(rig: KeyRig) -> None:
    assert rig.director_keys.warnings() == []
    rig.later = timedelta(days=280)
    (line,) = rig.director_keys.warnings()
    assert line.startswith("director-root, until") and line.endswith("roadloop keys renew --director")
    rig.director_keys.renew()
    assert rig.director_keys.warnings() == []
