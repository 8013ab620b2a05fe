"""Keys in a PKCS#11 security module (ECDSA): securesystemslib's signer, with errors that say what to do.

Needs the extra `hsm`, and the module's library named by the environment variable PYKCS11LIB, which securesystemslib
reads. Tried with SoftHSM2.
"""

import getpass
import os
import sys
from collections.abc import Callable
from urllib.parse import parse_qsl, urlparse

from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import HSMSigner, Key, Signature

from roadloop_models.errors import ConfigError

PIN_VARIABLE = "ROADLOOP_HSM_PIN"


def ask_pin(secret: str) -> str:
    """The PIN from the environment, or typed by a person. Raises ConfigError where there is neither."""
    if PIN_VARIABLE in os.environ:
        return os.environ[PIN_VARIABLE]
    if not sys.stdin.isatty():
        raise ConfigError(f"the security module asks for its {secret}: set {PIN_VARIABLE}, or sign at a terminal")
    return getpass.getpass(f"Security module's {secret}: ")


class ModuleSigner(HSMSigner):
    """Signs with a key that never leaves its module."""

    @staticmethod
    def public_key_of(uri: str, pin: Callable[[str], str]) -> Key:
        """The public part of the key that `hsm:[<key id>][?label=<token>]` names. Raises ConfigError."""
        parsed = urlparse(uri)
        keyid = int(parsed.path) if parsed.path else None
        try:
            return HSMSigner.import_(keyid, dict(parse_qsl(parsed.query)).get("label"), pin)[1]
        except _ERRORS as error:
            raise _refused(uri, error) from error

    def sign(self, payload: bytes) -> Signature:
        """Raises ConfigError where the module, its token or the key is not there, or the PIN is wrong."""
        try:
            return super().sign(payload)
        except _ERRORS as error:
            raise _refused(f"key {self.hsm_keyid} of token {self.token_label}", error) from error


def _module_errors() -> tuple[type[Exception], ...]:
    try:
        from pkcs11.exceptions import PKCS11Error
    except ImportError:
        return ()
    return (PKCS11Error, RuntimeError)


_ERRORS: tuple[type[Exception], ...] = (ValueError, UnsupportedLibraryError, *_module_errors())


def _refused(what: str, error: Exception) -> ConfigError:
    said = str(error) or type(error).__name__
    return ConfigError(f"security module: {what}: {said}; is the extra 'hsm' installed, the token in, the PIN right?")
