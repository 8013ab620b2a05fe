"""Operators and what they sign."""

from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from roadloop_cloud.rollout.statements import Operators, Signatory, Signed
from roadloop_models.errors import BadInputError, ConfigError, ConflictError, NotFoundError, TrustError

SAID = {"wave": 1, "share": 0.25, "who": "ann", "nested": {"b": [1, 2], "a": None}}


@pytest.fixture
def operators(tmp_path: Path) -> Operators:
    made = Operators(tmp_path / "operators")
    made.add("ann", tmp_path / "ann.pem")
    made.add("bob", tmp_path / "bob.pem")
    return made


def ann(tmp_path: Path) -> Signatory:
    return Signatory.load("ann", tmp_path / "ann.pem")


def test_what_was_signed_is_verified_after_a_trip_through_json(operators: Operators, tmp_path: Path) -> None:
    signed = ann(tmp_path).sign("approval", SAID)
    again = msgspec.json.decode(msgspec.json.format(msgspec.json.encode(signed), indent=2), type=Signed)
    assert operators.verify("approval", again) == SAID


@pytest.mark.parametrize(
    "change",
    [
        {"statement": {**SAID, "wave": 2}},
        {"kind": "evidence"},
        {"operator": "bob"},
        {"signature": "AAAA"},
        {"signature": "not base64!"},
    ],
    ids=["statement", "kind", "operator", "short", "malformed"],
)
def test_what_was_changed_is_refused(operators: Operators, tmp_path: Path, change: dict[str, object]) -> None:
    signed = msgspec.structs.replace(ann(tmp_path).sign("approval", SAID), **change)
    with pytest.raises(TrustError):
        operators.verify("approval", signed)
    if "kind" in change:
        with pytest.raises(TrustError, match="does not match"):
            operators.verify("evidence", signed)


def test_a_private_key_is_its_owners_alone(operators: Operators, tmp_path: Path) -> None:
    assert (tmp_path / "ann.pem").stat().st_mode & 0o777 == 0o600
    assert operators.names() == ["ann", "bob"]
    assert not list((tmp_path / "operators").glob("*.pem"))


def test_names_and_keys_are_checked(operators: Operators, tmp_path: Path) -> None:
    with pytest.raises(ConflictError, match="exists"):
        operators.add("carl", tmp_path / "ann.pem")
    with pytest.raises(ConflictError, match="remove it first"):
        operators.add("ann", tmp_path / "other.pem")
    assert not (tmp_path / "other.pem").exists()
    with pytest.raises(BadInputError, match="letters"):
        operators.add("../ann", tmp_path / "x.pem")
    with pytest.raises(NotFoundError, match="there are ann, bob"):
        operators.public_key("../../etc/passwd")
    with pytest.raises(TrustError, match="not the one"):
        operators.check(Signatory.load("bob", tmp_path / "ann.pem"))
    operators.remove("ann")
    with pytest.raises(NotFoundError):
        operators.verify("approval", ann(tmp_path).sign("approval", SAID))


def test_only_ed25519_keys_are_taken(operators: Operators, tmp_path: Path) -> None:
    key = generate_private_key(SECP256R1())
    private, public = tmp_path / "ec.pem", tmp_path / "ec.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(ConfigError, match="Ed25519"):
        Signatory.load("ann", private)
    with pytest.raises(ConfigError, match="Ed25519"):
        operators.register("carl", public)
    with pytest.raises(ConfigError, match="none.pem"):
        Signatory.load("ann", tmp_path / "none.pem")
    public.write_text("nonsense")
    with pytest.raises(ConfigError, match="PEM"):
        operators.register("carl", public)
