"""The content key of a sealed release: wrapped for this vehicle, it lies beside the manifest of the release."""

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path

from roadloop_agent.update import disk
from roadloop_agent.update.refused import MetadataError
from roadloop_models.bundle import Manifest
from roadloop_models.errors import BundleError
from roadloop_models.sealed import KEY_FILE, WRAPPED_BYTES, encode_key_file, read_key_file


def place_content_key(keys: Mapping[str, str], manifest: Manifest, directory: Path) -> None:
    """Write what the director gives for a release to its staged files; nothing where the release is in clear.

    Whether it opens them the self-test finds out, where the private key is asked for the first time.
    Raises MetadataError where the director gives none, DiskFullError.
    """
    if manifest.sealed is None:
        return
    try:
        wrapped = base64.b64decode(keys.get("content", ""), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MetadataError(f"{_name(manifest)}: the director gives a content key that is no base64") from error
    if len(wrapped) != WRAPPED_BYTES:
        raise MetadataError(f"{_name(manifest)}: is sealed, and the director gives this vehicle no content key for it")
    try:
        if read_key_file(directory) == wrapped:
            return
    except BundleError:
        pass
    with disk.disk_errors(directory):
        disk.write_durably(directory / KEY_FILE, encode_key_file(wrapped))


def _name(manifest: Manifest) -> str:
    return f"{manifest.task} {manifest.version}"
