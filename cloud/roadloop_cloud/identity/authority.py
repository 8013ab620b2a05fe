"""The workspace's own certificate authority: EC P-256, every name set here and nowhere else.

The name (CN) of a certificate is what the broker's access list goes by, so no name ever comes from a request.
"""

import fcntl
import ipaddress
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from roadloop_cloud.files import write_atomic
from roadloop_cloud.store.database import now_utc
from roadloop_models.errors import ConfigError, ConflictError

AUTHORITY_LIFE = timedelta(days=3650)
BROKER_LIFE = timedelta(days=365)
CLIENT_LIFE = timedelta(days=90)
RENEW_BEFORE = timedelta(days=30)
_CLOCK_SKEW = timedelta(minutes=10)
"""Certificates are good from a little before now, for vehicles whose clock is behind."""

_KEY_MODE = 0o600


@dataclass(frozen=True)
class Identity:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """A CA whose key lies in a folder as `ca.key`, beside `ca.crt` and the revocation list `ca.crl`."""

    def __init__(self, directory: Path, now: Callable[[], datetime] = now_utc) -> None:
        """`create` makes the files; the rest reads them."""
        self._directory = directory
        self._now = now

    @property
    def certificate_path(self) -> Path:
        """What both sides of a connection trust."""
        return self._directory / "ca.crt"

    @property
    def revocations_path(self) -> Path:
        """The list of revoked certificates, which the broker reads at its start and on SIGHUP."""
        return self._directory / "ca.crl"

    @property
    def _key_path(self) -> Path:
        return self._directory / "ca.key"

    def create(self, name: str) -> None:
        """Make key, certificate and an empty revocation list. Raises ConflictError where there is a CA already."""
        if self._key_path.exists():
            raise ConflictError(f"{self._key_path}: there is a CA already")
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        certificate = (
            self._builder(subject, subject, key.public_key(), AUTHORITY_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        write_atomic(self._key_path, _key_pem(key), _KEY_MODE)
        write_atomic(self.certificate_path, certificate.public_bytes(serialization.Encoding.PEM))
        self._write_revocations([])

    def issue_client(self, name: str, life: timedelta = CLIENT_LIFE) -> Identity:
        """An identity for a vehicle or a cloud process, good for connecting only."""
        return self._issue(name, life, ExtendedKeyUsageOID.CLIENT_AUTH, ())

    def issue_server(self, name: str, hosts: Sequence[str], life: timedelta = BROKER_LIFE) -> Identity:
        """An identity for the broker, good for the given DNS names and IP addresses."""
        return self._issue(name, life, ExtendedKeyUsageOID.SERVER_AUTH, [_general_name(host) for host in hosts])

    def ensure_client(self, name: str, certificate: Path, key: Path) -> None:
        """Write an identity where there is none, or where its certificate ends within 30 days."""
        if key.is_file() and certificate.is_file() and not self._ends_soon(certificate):
            return
        write_identity(self.issue_client(name), certificate, key)

    def ensure_server(self, name: str, hosts: Sequence[str], certificate: Path, key: Path) -> None:
        """The same for the broker; also where its host names changed."""
        if key.is_file() and certificate.is_file() and not self._ends_soon(certificate):
            found = _load_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName)
            if list(found.value) == [_general_name(host) for host in hosts]:
                return
        write_identity(self.issue_server(name, hosts), certificate, key)

    def revoke(self, certificate: Path) -> None:
        """Put a certificate on the revocation list. The broker reads the list again on SIGHUP."""
        serial = _load_certificate(certificate).serial_number
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(self._now()).build()
        with self._locked():
            known = x509.load_pem_x509_crl(self.revocations_path.read_bytes())
            self._write_revocations([*(entry for entry in known if entry.serial_number != serial), revoked])

    def _issue(
        self, name: str, life: timedelta, usage: x509.ObjectIdentifier, hosts: Sequence[x509.GeneralName]
    ) -> Identity:
        authority, authority_key = _load_certificate(self.certificate_path), self._load_key()
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            self._builder(_name(name), authority.subject, key.public_key(), life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
        )
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        certificate = builder.sign(authority_key, hashes.SHA256())
        return Identity(certificate.public_bytes(serialization.Encoding.PEM), _key_pem(key))

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, life: timedelta
    ) -> x509.CertificateBuilder:
        now = self._now()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(now + life)
        )

    def _write_revocations(self, revoked: Sequence[x509.RevokedCertificate]) -> None:
        # Good as long as the CA is: with a list that has run out, the broker would refuse everybody.
        authority = _load_certificate(self.certificate_path)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(authority.subject)
            .last_update(self._now() - _CLOCK_SKEW)
            .next_update(authority.not_valid_after_utc)
        )
        for entry in revoked:
            builder = builder.add_revoked_certificate(entry)
        signed = builder.sign(self._load_key(), hashes.SHA256())
        write_atomic(self.revocations_path, signed.public_bytes(serialization.Encoding.PEM))

    def _ends_soon(self, certificate: Path) -> bool:
        return _load_certificate(certificate).not_valid_after_utc - self._now() < RENEW_BEFORE

    def _load_key(self) -> ec.EllipticCurvePrivateKey:
        try:
            key = serialization.load_pem_private_key(self._key_path.read_bytes(), password=None)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self._key_path}: {error}; the CA's key is needed to issue certificates") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError(f"{self._key_path}: not an EC key")
        return key

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._directory / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def write_identity(identity: Identity, certificate: Path, key: Path) -> None:
    """Write both files; the key is its owner's alone."""
    write_atomic(key, identity.key, _KEY_MODE)
    write_atomic(certificate, identity.certificate)


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
