"""Signing keys of the image repository, in folders that only their owner reads.

Root, targets and the key of each task decide what may run and stay offline: they may lie on a stick that is plugged in
to publish, in a security module, or on a machine that has no network. Snapshot and timestamp only say what is newest,
and are signed by the running service.

A folder holds `<role>.pem` (PKCS #8, mode 0600), or `<role>@<8 digits of the key's id>.pem` where the key came later,
or the same with `.uri`: where a key lies that is kept elsewhere (a URI in the manner of securesystemslib, such as
`hsm:2?label=fleet` or `file2:/media/stick/root.pem`) and its public part.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.exceptions import KeyMismatchError, UnsupportedLibraryError
from securesystemslib.signer import CryptoSigner, HSMSigner, Key, Signer

from roadloop_cloud.files import write_atomic
from roadloop_cloud.registry.hsm import ModuleSigner, ask_pin
from roadloop_models.errors import ConfigError, ConflictError
from roadloop_models.typed import from_json

ROOT, TARGETS, SNAPSHOT, TIMESTAMP = "root", "targets", "snapshot", "timestamp"
OFFLINE_ROLES = (ROOT, TARGETS)
"""Of the top level; each task has an offline role of its own name besides."""
ONLINE_ROLES = (SNAPSHOT, TIMESTAMP)
SHORT_ID = 8
_RETIRED = "retired"


class PublicKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The public part of a key, as it travels between machines."""

    role: str
    keyid: str
    public: dict[str, Any]

    def key(self) -> Key:
        """Raises ConfigError where it is no key."""
        return _public_key(self.keyid, self.public, f"public key {self.keyid[:SHORT_ID]}")


class _Elsewhere(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    uri: str
    keyid: str
    public: dict[str, Any]


class KeyFolder:
    """See the module. `pin` is asked for the PIN of a security module when it signs."""

    def __init__(self, directory: Path, roles: tuple[str, ...], pin: Callable[[str], str] = ask_pin) -> None:
        """Nothing is read yet. `roles` are those that `create` makes keys for."""
        self.directory = directory
        self._roles = roles
        self._pin = pin

    def create(self) -> None:
        """Make a key for each role that has none here."""
        for role in self._roles:
            self.ensure(role)

    def ensure(self, role: str) -> None:
        """The same for any role, such as a task's."""
        if not any(role_of(path.stem) == role for path in self._files()):
            self._write(f"{role}.pem", CryptoSigner.generate_ed25519().private_bytes)

    def add(self, role: str) -> PublicKey:
        """Make another key for a role; it counts as soon as metadata names it."""
        signer = CryptoSigner.generate_ed25519()
        key = signer.public_key
        self._write(f"{role}@{key.keyid[:SHORT_ID]}.pem", signer.private_bytes)
        return PublicKey(role, key.keyid, key.to_dict())

    def refer(self, role: str, uri: str) -> PublicKey:
        """Note where a key of a role is kept. Raises ConfigError where there is none, ConflictError where it is known.

        `hsm:[<key id>][?label=<token>]` is a key in a PKCS#11 module, `file2:<path>` an unencrypted PEM file.
        """
        key = _imported_key(uri, self._pin)
        if key.keyid in self.names():
            raise ConflictError(f"{self.directory}: holds key {key.keyid[:SHORT_ID]} already")
        content = msgspec.json.format(msgspec.json.encode(_Elsewhere(uri, key.keyid, key.to_dict()))) + b"\n"
        self._write(f"{role}@{key.keyid[:SHORT_ID]}.uri", content)
        return PublicKey(role, key.keyid, key.to_dict())

    def retire(self, keyid: str) -> None:
        """Put a key aside that no metadata names any more. Nothing happens where it is not here."""
        for path in self._files():
            if self._load(path).public_key.keyid == keyid:
                target = self.directory / _RETIRED / f"{role_of(path.stem)}@{keyid[:SHORT_ID]}{path.suffix}"
                target.parent.mkdir(exist_ok=True, mode=0o700)
                path.rename(target)

    def signers(self) -> Mapping[str, Signer]:
        """Role -> signer of its newest key. Raises ConfigError naming the key file that is missing or unreadable."""
        return {role: self._load(self._newest(role)) for role in self._roles}

    def at_hand(self) -> Mapping[str, Signer]:
        """All keys here, of whatever role: file name without its ending -> signer. Raises ConfigError naming the key
        file that is unreadable."""
        return {path.stem: self._load(path) for path in self._files()}

    def names(self) -> dict[str, str]:
        """Key id -> name of the file that holds it. Raises ConfigError naming the key file that is unreadable."""
        return {self._load(path).public_key.keyid: path.name for path in self._files()}

    def _newest(self, role: str) -> Path:
        found = [path for path in self._files() if role_of(path.stem) == role]
        return max(found, key=lambda path: path.stat().st_mtime_ns, default=self.directory / f"{role}.pem")

    def _files(self) -> Iterator[Path]:
        for path in sorted(self.directory.glob("*")) if self.directory.is_dir() else ():
            if path.suffix in (".pem", ".uri") and not path.name.startswith("."):
                yield path

    def _write(self, name: str, content: bytes) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(self.directory / name, content, 0o600)

    def _load(self, path: Path) -> Signer:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{path}: {error.strerror or error}; the {role_of(path.stem)} key is needed: put its folder in place"
            ) from error
        if path.suffix == ".uri":
            return self._load_elsewhere(path, content)
        try:
            return CryptoSigner(load_pem_private_key(content, password=None))
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"{path}: not an unencrypted private key in PEM form: {error}") from error

    def _load_elsewhere(self, path: Path, content: bytes) -> Signer:
        try:
            found = from_json(content, _Elsewhere)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from error
        key = _public_key(found.keyid, found.public, str(path))
        try:
            if found.uri.startswith(f"{HSMSigner.SCHEME}:"):
                return ModuleSigner.from_priv_key_uri(found.uri, key, self._pin)
            return Signer.from_priv_key_uri(found.uri, key, self._pin)
        except (ValueError, OSError, KeyMismatchError, UnsupportedLibraryError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"{path}: {found.uri}: {error}") from error


def role_of(name: str) -> str:
    """The role of a key by the name of its file, without the ending."""
    return name.partition("@")[0]


def _public_key(keyid: str, public: dict[str, Any], where: str) -> Key:
    try:
        return Key.from_dict(keyid, dict(public))
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{where}: no public key: {error!r}") from error


def _imported_key(uri: str, pin: Callable[[str], str]) -> Key:
    try:
        if uri.startswith(f"{HSMSigner.SCHEME}:"):
            return ModuleSigner.public_key_of(uri, pin)
        if uri.startswith(f"{CryptoSigner.SCHEME}:"):
            pem = Path(uri.removeprefix(f"{CryptoSigner.SCHEME}:")).read_bytes()
            return CryptoSigner(load_pem_private_key(pem, password=None)).public_key
    except (ValueError, TypeError, OSError, UnsupportedLibraryError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{uri}: {error}") from error
    raise ConfigError(f"{uri}: no such kind of key; known are hsm:[id][?label=token] and file2:/path/key.pem")
