"""What people sign: operators with their Ed25519 keys, and statements that carry a signature.

A signature is over `roadloop <kind> v1`, a line feed and the canonical JSON of the statement, so that a statement of
one kind can never pass for another.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from roadloop_cloud.files import write_atomic
from roadloop_models.errors import BadInputError, ConfigError, ConflictError, NotFoundError, TrustError

_NAME = re.compile(r"^[a-z0-9][a-z0-9.-]{0,39}\Z")


class Signed(msgspec.Struct, frozen=True):
    """A statement and who signed it. Unknown fields are tolerated; what counts is what the signature covers."""

    kind: str
    operator: str
    statement: dict[str, Any]
    signature: str
    """Base64."""


class Signatory:
    """A person with their private key."""

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        """`name` as the workspace knows them."""
        self.name = name
        self._key = key

    @classmethod
    def load(cls, name: str, path: Path) -> "Signatory":
        """Read the key file. Raises ConfigError where it is none."""
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror or error}; --key names your private key file") from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"{path}: not an unencrypted private key in PEM form: {error}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"{path}: not an Ed25519 key; 'roadloop operators add' makes one")
        return cls(name, key)

    @property
    def public_key(self) -> Ed25519PublicKey:
        """What others verify with."""
        return self._key.public_key()

    def sign(self, kind: str, statement: Mapping[str, Any]) -> Signed:
        """Put the name under a statement."""
        made = dict(statement)
        return Signed(kind, self.name, made, base64.b64encode(self._key.sign(_covered(kind, made))).decode())


class Operators:
    """The people whose word counts in a workspace: one public key each, as <name>.pub."""

    def __init__(self, directory: Path) -> None:
        """Made when the first one comes."""
        self._directory = directory

    def add(self, name: str, key_file: Path) -> None:
        """Make a person's key: the private half goes to `key_file`, which is theirs. Raises ConflictError."""
        if key_file.exists():
            raise ConflictError(f"{key_file}: exists; choose another --key, or register its public half by --public")
        key = Ed25519PrivateKey.generate()
        self._register(name, key.public_key())
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_atomic(key_file, private, 0o600)

    def register(self, name: str, public_file: Path) -> None:
        """Take a public key that the person made themselves. Raises ConfigError, ConflictError."""
        self._register(name, load_public(public_file))

    def remove(self, name: str) -> None:
        """Their word no longer counts, nor what they approved before. Raises NotFoundError."""
        self.public_key(name)
        self._path(name).unlink()

    def names(self) -> list[str]:
        """All of them."""
        return sorted(path.stem for path in self._directory.glob("*.pub"))

    def public_key(self, name: str) -> Ed25519PublicKey:
        """One person's key. Raises NotFoundError, ConfigError where the file is none."""
        if not _NAME.match(name) or not self._path(name).is_file():
            raise NotFoundError(f"no operator {name}; there are {', '.join(self.names()) or 'none'}")
        return load_public(self._path(name))

    def check(self, signatory: Signatory) -> None:
        """Raise TrustError where the key is not the one that is registered for the name."""
        if raw_public(self.public_key(signatory.name)) != raw_public(signatory.public_key):
            raise TrustError(f"operator {signatory.name}: the key is not the one that is registered for that name")

    def verify(self, kind: str, signed: Signed) -> dict[str, Any]:
        """The statement, if its operator is known and has signed it. Raises TrustError, NotFoundError."""
        return verify(kind, signed, self.public_key(signed.operator))

    def _register(self, name: str, key: Ed25519PublicKey) -> None:
        if not _NAME.match(name):
            raise BadInputError(f"operator {name!r}: 1 to 40 lower-case letters, digits, dots and dashes are allowed")
        if self._path(name).exists():
            raise ConflictError(f"operator {name} exists; remove it first")
        self._directory.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path(name), key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.pub"


def verify(kind: str, signed: Signed, key: Ed25519PublicKey) -> dict[str, Any]:
    """The statement. Raises TrustError where the signature is not that key's, or the statement of another kind."""
    try:
        if signed.kind != kind:
            raise TrustError(f"signed by {signed.operator}: a statement of kind {signed.kind!r}, expected {kind!r}")
        key.verify(base64.b64decode(signed.signature, validate=True), _covered(kind, signed.statement))
    except (InvalidSignature, binascii.Error) as error:
        raise TrustError(f"signed by {signed.operator}: the signature does not match") from error
    return signed.statement


def raw_public(key: Ed25519PublicKey) -> bytes:
    """The 32 bytes of a key."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _covered(kind: str, statement: Mapping[str, Any]) -> bytes:
    return f"roadloop {kind} v1\n".encode() + msgspec.json.encode(statement, order="deterministic")


def load_public(path: Path) -> Ed25519PublicKey:
    """A public key file. Raises ConfigError."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path}: not a public key in PEM form: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path}: not an Ed25519 key")
    return key
