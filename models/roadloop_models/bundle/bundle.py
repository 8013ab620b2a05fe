"""A bundle on disk: opened, checked against its manifest, and written."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from roadloop_models.bundle.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    Variant,
    encode_manifest,
    parse_manifest,
)
from roadloop_models.errors import BundleError, VariantMissingError
from roadloop_models.sealed import KeyStore, read_key_file, unseal

_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """A directory whose manifest has been read and whose files have been checked."""

    directory: Path
    manifest: Manifest
    manifest_sha256: str
    keys: KeyStore | None = field(default=None, compare=False)
    """Opens what is sealed."""

    @classmethod
    def open(cls, directory: Path, variant_key: str | None = None, keys: KeyStore | None = None) -> "Bundle":
        """Read the manifest and check size and SHA-256 of its files.

        With `variant_key` only the files which that variant needs must be there (a vehicle fetches no others);
        without it all of them. Raises BundleError naming the file.
        """
        raw = _read_manifest(directory)
        manifest = parse_manifest(raw)
        bundle = cls(directory, manifest, hashlib.sha256(raw).hexdigest(), keys)
        entries = manifest.files if variant_key is None else manifest.files_for(bundle.variant_by_key(variant_key))
        for entry in entries:
            check_file(directory / entry.path, entry)
        return bundle

    def variant(self, runtime: str | None = None, precision: str | None = None) -> Variant:
        """The first variant of that runtime and precision (None: any; int8 before fp32).

        Raises VariantMissingError with the list of what the bundle has.
        """
        by_preference = sorted(self.manifest.variants, key=lambda variant: variant.precision != "int8")
        for variant in by_preference:
            if runtime in (None, variant.runtime) and precision in (None, variant.precision):
                return variant
        asked = f"{runtime or 'any'}-{precision or 'any'}"
        raise VariantMissingError(f"{self.directory}: no variant {asked}; this bundle has {self._variant_list()}")

    def variant_by_key(self, key: str) -> Variant:
        """The variant with that key (`onnx-int8`). Raises VariantMissingError."""
        for variant in self.manifest.variants:
            if variant.key == key:
                return variant
        raise VariantMissingError(f"{self.directory}: no variant {key}; this bundle has {self._variant_list()}")

    def path(self, relative: str) -> Path:
        """Where a file of the bundle lies. Raises BundleError where the manifest does not list it."""
        return self.directory / self.manifest.file_entry(relative).path

    def read(self, relative: str) -> bytes:
        """A file's content, in clear: what is sealed is so in memory alone.

        Raises BundleError where the file cannot be read, is sealed for another vehicle, or there are no keys here.
        """
        path, sealed = self.path(relative), self.manifest.sealed
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror or error}; the manifest lists it") from error
        if sealed is None or relative not in sealed.files:
            return content
        if self.keys is None:
            raise BundleError(f"{path}: is sealed, and opens only on a vehicle of its fleet, with its configuration")
        task = self.manifest.task
        content_key = self.keys.unwrap(read_key_file(self.directory), task, sealed.release)
        return unseal(content_key, content, task, sealed.release, relative)

    def labels(self) -> tuple[str, ...] | None:
        """The class labels by class id, or None where the task has no classes."""
        if self.manifest.labels is None:
            return None
        return tuple(self.path(self.manifest.labels).read_text(encoding="utf-8").splitlines())

    def _variant_list(self) -> str:
        return ", ".join(variant.key for variant in self.manifest.variants)


def write_bundle(directory: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write a new bundle; `files` maps relative path to content and `manifest.files` is filled in from it.

    Raises BundleError where the directory exists already (bundles are immutable) or the manifest is inconsistent.
    """
    if directory.exists():
        raise BundleError(f"{directory}: exists already; a bundle is never changed, choose a new version")
    entries = tuple(
        FileEntry(path, hashlib.sha256(content).hexdigest(), len(content)) for path, content in sorted(files.items())
    )
    raw = encode_manifest(msgspec.structs.replace(manifest, files=entries))
    for path, content in files.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    (directory / MANIFEST_NAME).write_bytes(raw)
    return Bundle.open(directory)


def check_file(path: Path, entry: FileEntry) -> None:
    """Compare one file with its manifest entry. Raises BundleError naming the file and the difference."""
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}; the manifest lists it") from error
    if size_bytes != entry.size_bytes:
        raise BundleError(f"{path}: {size_bytes} bytes, the manifest says {entry.size_bytes}: truncated or changed")
    if file_sha256(path) != entry.sha256:
        raise BundleError(f"{path}: its SHA-256 is not the one in the manifest: changed after it was written")


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _read_manifest(directory: Path) -> bytes:
    path = directory / MANIFEST_NAME
    try:
        with path.open("rb") as file:
            return file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise BundleError(
            f"{path}: {error.strerror or error}; a bundle is a directory with a {MANIFEST_NAME}"
        ) from error
