"""Sealed releases: weights that only the vehicles of this fleet can read, and that are never in clear on their disks.

One ciphertext for all vehicles: a file is AES-256-GCM under the *content key* of its release, with task, release and
path as associated data, so that no file stands in another's place. Hashes and signatures are of the ciphertext. The
content key is wrapped for each vehicle with HPKE (RFC 9180: DHKEM X25519, HKDF-SHA256, AES-256-GCM; 80 bytes). The
private key stays in the vehicle's key store.

`cryptography` is imported where something is opened or sealed: a vehicle without sealed releases never loads it here.
"""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from roadloop_models.errors import BundleError, ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.hpke import Suite

KEY_BYTES = 32
WRAPPED_BYTES = 80
"""32 of the ephemeral public key, the content key, 16 of the tag."""
OVERHEAD_BYTES = 28
"""By which a sealed file is larger: 12 of the nonce before it, 16 of the tag after it."""
KEY_FILE = "sealed.key"
"""Beside the manifest on a vehicle: the wrapped content key and its SHA-256."""
_NONCE_BYTES = 12


class KeyStore(Protocol):
    """Holds the private key of a vehicle and unwraps with it; the key itself need not be readable."""

    def unwrap(self, wrapped: bytes, task: str, release: int) -> bytes:
        """The content key of a release. Raises BundleError where it was not wrapped for this vehicle and release."""


class FileKeyStore:
    """The private key in a file that only its owner reads (PEM, PKCS #8)."""

    def __init__(self, path: Path) -> None:
        """Nothing is read yet."""
        self._path = path

    def unwrap(self, wrapped: bytes, task: str, release: int) -> bytes:
        """See KeyStore. Raises ConfigError where the file is missing or no such key."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(self._path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{self._path}: {error}; sealed releases need the vehicle's sealing key") from error
        if not isinstance(key, X25519PrivateKey):
            raise ConfigError(f"{self._path}: no X25519 key; sealed releases need the vehicle's sealing key")
        try:
            return _suite().decrypt(wrapped, key, info=_wrap_info(task, release))
        except (InvalidTag, ValueError) as error:
            raise BundleError(
                f"{task} release {release}: its content key was not wrapped for {self._path}, or is damaged"
            ) from error


def new_key_pair() -> tuple[bytes, bytes]:
    """(private key as PEM, public key as 32 raw bytes) of a new vehicle."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = X25519PrivateKey.generate()
    return (
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        key.public_key().public_bytes_raw(),
    )


def wrap(content_key: bytes, public_key: bytes, task: str, release: int) -> bytes:
    """The content key of a release for the vehicle with that public key (32 raw bytes)."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    recipient = X25519PublicKey.from_public_bytes(public_key)
    return _suite().encrypt(content_key, recipient, info=_wrap_info(task, release))


def seal(content_key: bytes, content: bytes, task: str, release: int, path: str) -> bytes:
    """A file as it is published: nonce, ciphertext, tag."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(content_key).encrypt(nonce, content, _file_data(task, release, path))


def unseal(content_key: bytes, sealed: bytes, task: str, release: int, path: str) -> bytes:
    """The file in clear. Raises BundleError where it is not that file of that release, or the key is another's."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        return AESGCM(content_key).decrypt(nonce, ciphertext, _file_data(task, release, path))
    except (InvalidTag, ValueError) as error:
        raise BundleError(f"{path}: cannot be unsealed with the content key of {task} release {release}") from error


def encode_key_file(wrapped: bytes) -> bytes:
    """The content of KEY_FILE: a damaged one is told from one for another vehicle."""
    return wrapped + hashlib.sha256(wrapped).digest()


def read_key_file(directory: Path) -> bytes:
    """The wrapped content key of the bundle in that directory. Raises BundleError where missing or damaged."""
    path = directory / KEY_FILE
    try:
        with path.open("rb") as file:
            content = file.read(WRAPPED_BYTES + 33)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}; the bundle is sealed") from error
    wrapped, digest = content[:WRAPPED_BYTES], content[WRAPPED_BYTES:]
    if len(wrapped) != WRAPPED_BYTES or hashlib.sha256(wrapped).digest() != digest:
        raise BundleError(f"{path}: truncated or changed")
    return wrapped


def _suite() -> "Suite":
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _wrap_info(task: str, release: int) -> bytes:
    return f"roadloop content key\0{task}\0{release}".encode()


def _file_data(task: str, release: int, path: str) -> bytes:
    return f"roadloop sealed file\0{task}\0{release}\0{path}".encode()
