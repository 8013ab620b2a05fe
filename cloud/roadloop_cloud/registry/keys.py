"""Signing keys of the image repository: one Ed25519 key for each role, in files that only their owner reads.

Root and targets decide what may run and stay offline: they may lie on a stick that is plugged in to publish. Snapshot
and timestamp only say what is newest, and are signed by the running service.
"""

from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, Signer

from roadloop_cloud.files import write_atomic
from roadloop_models.errors import ConfigError

ROOT, TARGETS, SNAPSHOT, TIMESTAMP = "root", "targets", "snapshot", "timestamp"
OFFLINE_ROLES = (ROOT, TARGETS)
ONLINE_ROLES = (SNAPSHOT, TIMESTAMP)


class KeyFolder:
    """One key for each of its roles, as <role>.pem (PKCS #8, mode 0600)."""

    def __init__(self, directory: Path, roles: tuple[str, ...]) -> None:
        """Nothing is read yet."""
        self._directory = directory
        self._roles = roles

    def create(self) -> None:
        """Make the keys that are not there yet."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for role in self._roles:
            if not self._path(role).exists():
                write_atomic(self._path(role), CryptoSigner.generate_ed25519().private_bytes, 0o600)

    def signers(self) -> Mapping[str, Signer]:
        """Role -> signer. Raises ConfigError naming the key file that is missing or unreadable."""
        return {role: self._load(role) for role in self._roles}

    def _load(self, role: str) -> Signer:
        path = self._path(role)
        try:
            return CryptoSigner(load_pem_private_key(path.read_bytes(), password=None))
        except OSError as error:
            raise ConfigError(
                f"{path}: {error.strerror or error}; the {role} key is needed to sign: put the key folder in place"
            ) from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"{path}: not an unencrypted private key in PEM form: {error}") from error

    def _path(self, role: str) -> Path:
        return self._directory / f"{role}.pem"
