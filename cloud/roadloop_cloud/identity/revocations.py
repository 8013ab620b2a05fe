"""Which certificates are revoked, as the authority's list says now."""

from collections.abc import Callable
from pathlib import Path

from cryptography import x509

from roadloop_models.errors import ConfigError


class Revocations:
    """A revocation list, read again where it has changed, and looked at no more often than every `look_s`.

    OpenSSL keeps the list that a server began with, so the file server asks this for every request.
    """

    def __init__(self, path: Path, clock: Callable[[], float], look_s: float = 5.0) -> None:
        """Raises ConfigError where there is no list at `path`."""
        self._path = path
        self._clock = clock
        self._look_s = look_s
        self._looked_s = clock()
        self._changed_ns, self._serials = self._read()

    def contains(self, serial: int) -> bool:
        """Whether the certificate with that serial number is revoked."""
        if self._clock() - self._looked_s >= self._look_s:
            self._looked_s = self._clock()
            if self._path.stat().st_mtime_ns != self._changed_ns:
                self._changed_ns, self._serials = self._read()
        return serial in self._serials

    def _read(self) -> tuple[int, frozenset[int]]:
        try:
            changed_ns = self._path.stat().st_mtime_ns
            listed = x509.load_pem_x509_crl(self._path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self._path}: {error}; 'roadloop init' makes it") from error
        return changed_ns, frozenset(entry.serial_number for entry in listed)
