"""Sealed forms of releases: what is published of them, and the content keys that open it.

    sealed/<task>/<release>/      the bundle as it is published: weights as ciphertext, without the training weights
    keys/content/<task>/<release> its content key, which only the owner of the workspace reads

The registered model stays in clear in the workspace, which evaluates it and trains from it.
"""

import base64
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from roadloop_cloud.files import move_tree_durably, write_atomic
from roadloop_models.bundle import Bundle, Sealed, write_bundle
from roadloop_models.contract.messages import ReleaseRef
from roadloop_models.errors import ConfigError
from roadloop_models.sealed import KEY_BYTES, seal, wrap

_log = logging.getLogger(__name__)


class SealedReleases:
    """See the module."""

    def __init__(self, folder: Path, keys: Path, public_key: Callable[[str], bytes | None]) -> None:
        """`public_key` is a vehicle's, as 32 raw bytes; None where it has none."""
        self._folder = folder
        self._keys = keys
        self._public_key = public_key

    def seal(self, bundle: Bundle, release: int) -> Bundle:
        """The sealed form of a bundle as that release; made once, and the same ever after. Raises BundleError."""
        manifest = bundle.manifest
        target = self._folder / manifest.task / str(release)
        if not target.exists():
            staging = target.with_name(f".{target.name}.partial")
            shutil.rmtree(staging, ignore_errors=True)
            _write(staging, bundle, release, self._content_key(manifest.task, release))
            move_tree_durably(staging, target)
        return Bundle.open(target)

    def bundle(self, task: str, release: int) -> Bundle:
        """The sealed form of a release, checked anew. Raises BundleError where it is not whole."""
        return Bundle.open(self._folder / task / str(release))

    def wrapped_for(self, public_key: bytes, ref: ReleaseRef) -> bytes | None:
        """The content key of a release for the holder of that key; None where the release is in clear."""
        content_key = self._read(ref.task, ref.release)
        return None if content_key is None else wrap(content_key, public_key, ref.task, ref.release)

    def wrapped_keys(self, vehicle: str, ref: ReleaseRef) -> Mapping[str, str]:
        """What the director gives a vehicle for a release: the wrapped content key in base64, where it is sealed."""
        if self._read(ref.task, ref.release) is None:
            return {}
        public_key = self._public_key(vehicle)
        if public_key is None:
            _log.warning("%s has no sealing key: it cannot open release %d of %s", vehicle, ref.release, ref.task)
            return {}
        wrapped = self.wrapped_for(public_key, ref)
        return {} if wrapped is None else {"content": base64.b64encode(wrapped).decode()}

    def _content_key(self, task: str, release: int) -> bytes:
        content_key = self._read(task, release)
        if content_key is None:
            content_key = os.urandom(KEY_BYTES)
            (self._keys / task).mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomic(self._key_path(task, release), content_key, 0o600)
        return content_key

    def _read(self, task: str, release: int) -> bytes | None:
        path = self._key_path(task, release)
        try:
            content_key = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror or error}; sealed releases need their content key") from error
        if len(content_key) != KEY_BYTES:
            raise ConfigError(f"{path}: {len(content_key)} bytes, a content key has {KEY_BYTES}")
        return content_key

    def _key_path(self, task: str, release: int) -> Path:
        return self._keys / task / str(release)


def _write(directory: Path, bundle: Bundle, release: int, content_key: bytes) -> None:
    manifest = bundle.manifest
    secret = tuple(sorted({variant.file for variant in manifest.variants}))
    files = {}
    for entry in manifest.files:
        if entry.path != manifest.training_weights:
            content = bundle.read(entry.path)
            if entry.path in secret:
                content = seal(content_key, content, manifest.task, release, entry.path)
            files[entry.path] = content
    sealed = Sealed("A256GCM", release, secret)
    write_bundle(directory, msgspec.structs.replace(manifest, training_weights=None, sealed=sealed), files)
