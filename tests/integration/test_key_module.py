"""A task's key in a PKCS#11 security module: SoftHSM2, for real."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from roadloop_cloud.registry.hsm import PIN_VARIABLE
from roadloop_cloud.registry.keys import KeyFolder
from roadloop_models.errors import ConfigError
from tests.fakes.key_rig import KeyRig
from tests.fakes.opaque_bundles import TASK

pkcs11 = pytest.importorskip("pkcs11", reason="python-pkcs11 (the extra 'hsm') is not installed")

LIBRARIES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)
PIN = "1234"


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A token with an ECDSA key of id 1; its label."""
    library = next((path for path in LIBRARIES if Path(path).exists()), None)
    if library is None or shutil.which("softhsm2-util") is None:
        pytest.skip("SoftHSM2 is not installed")
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
        patch.setenv("PYKCS11LIB", library)
        command = ["softhsm2-util", "--init-token", "--free", "--label", "fleet", "--so-pin", "5678", "--pin", PIN]
        subprocess.run(command, check=True, capture_output=True)
        with pkcs11.lib(library).get_token(token_label="fleet").open(user_pin=PIN, rw=True) as session:
            curve = pkcs11.util.ec.encode_named_curve_parameters("secp256r1")
            parameters = session.create_domain_parameters(
                pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: curve}, local=True
            )
            parameters.generate_keypair(store=True, id=b"\x01", label="roadloop")
        yield "fleet"


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyRig:
    monkeypatch.setattr(os, "fsync", os.fstat)
    monkeypatch.setenv(PIN_VARIABLE, PIN)
    return KeyRig(tmp_path)


def test_a_module_signs_a_release_that_vehicles_believe(rig: KeyRig, token: str) -> None:
    rig.publish(TASK)
    vehicle = rig.vehicle("van", [TASK])
    rig.ceremonies.rotate(TASK, rig.registry.offline.refer(TASK, f"hsm:1?label={token}"))
    vehicle.finds(rig.publish(TASK))
    files = [path.name for path in rig.registry.offline.directory.glob(f"{TASK}*")]
    assert len(files) == 1 and files[0].endswith(".uri"), "no private key is in the folder"


def test_a_module_is_part_of_a_ceremony_elsewhere(rig: KeyRig, token: str, tmp_path: Path) -> None:
    from roadloop_cloud.registry.ceremonies import sign_request

    ref = rig.publish(TASK)
    stick = KeyFolder(tmp_path / "stick", ())
    request = tmp_path / "request.json"
    rig.ceremonies.add("root", stick.refer("root", f"hsm:1?label={token}"), 2, request)
    assert not sign_request(request, stick)[1]
    rig.ceremonies.import_signed(request)
    rig.vehicle("van", [TASK]).finds(ref)


@pytest.mark.parametrize(
    ("uri", "problem"),
    [("hsm:9?label=fleet", "could not find"), ("hsm:1?label=other", "No PKCS#11 token"), ("usb:1", "no such kind")],
)
def test_what_is_not_there_is_said(rig: KeyRig, token: str, uri: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        rig.registry.offline.refer(TASK, uri)


def test_a_wrong_pin_changes_nothing(rig: KeyRig, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = rig.publish(TASK)
    public = rig.registry.offline.refer(TASK, f"hsm:1?label={token}")
    monkeypatch.setenv(PIN_VARIABLE, "9999")
    with pytest.raises(ConfigError, match="the PIN right"):
        rig.ceremonies.rotate(TASK, public)
    rig.vehicle("van", [TASK]).finds(ref)
