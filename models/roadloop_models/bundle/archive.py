"""A bundle as one file, to carry between workspaces and machines.

A plain tar: the manifest first, then the files in the manifest's order. It is deterministic (equal bundles give equal
bytes) and not compressed (quantized weights hardly shrink). Reading trusts nothing: the manifest bounds every size
before it is read, only regular files that it lists are taken, and the bundle appears under its name only once all of
it has been checked.
"""

import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import IO

from roadloop_models.bundle.bundle import Bundle
from roadloop_models.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, parse_manifest
from roadloop_models.errors import BundleError

_COPY_BYTES = 1 << 20


def pack(bundle: Bundle, archive: Path) -> None:
    """Write all files of a bundle to one archive; appears under its name only when complete."""
    partial = archive.with_name(archive.name + ".partial")
    try:
        with partial.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for path in (MANIFEST_NAME, *(entry.path for entry in bundle.manifest.files)):
                    content = (bundle.directory / path).read_bytes()
                    member = tarfile.TarInfo(path)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(archive)
    finally:
        partial.unlink(missing_ok=True)


def unpack(archive: Path, directory: Path) -> Bundle:
    """Check an archive and write it as a new bundle directory.

    Raises BundleError where the archive is truncated, tampered with, holds something else than the manifest lists, or
    the directory exists already; nothing is left behind then.
    """
    if directory.exists():
        raise BundleError(f"{directory}: exists already; a bundle is never changed, choose a new place")
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        with archive.open("rb") as file:
            _extract(archive, file, staging)
        bundle = Bundle.open(staging)
        staging.rename(directory)
    except OSError as error:
        raise BundleError(f"{archive}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Bundle(directory, bundle.manifest, bundle.manifest_sha256)


def _extract(archive: Path, file: IO[bytes], staging: Path) -> None:
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            first = tar.next()
            if first is None or first.name != MANIFEST_NAME or not first.isreg() or first.size > MAX_MANIFEST_BYTES:
                raise BundleError(f"{archive}: does not begin with a {MANIFEST_NAME}; not a bundle archive")
            raw = _member(tar, first).read(MAX_MANIFEST_BYTES)
            expected = {entry.path: entry.size_bytes for entry in parse_manifest(raw).files}
            (staging / MANIFEST_NAME).write_bytes(raw)
            while (member := tar.next()) is not None:
                size_bytes = expected.pop(member.name, None)
                if size_bytes is None or not member.isreg():
                    raise BundleError(f"{archive}: {member.name!r} is not in its manifest, or not a plain file")
                if member.size != size_bytes:
                    raise BundleError(f"{archive}: {member.name}: {member.size} bytes, the manifest says {size_bytes}")
                target = staging / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as out:
                    shutil.copyfileobj(_member(tar, member), out, _COPY_BYTES)
    except (tarfile.TarError, EOFError) as error:
        raise BundleError(f"{archive}: not a bundle archive, or truncated: {error}") from error
    if expected:
        raise BundleError(f"{archive}: truncated: {', '.join(sorted(expected))} missing")


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(member)
    if content is None:
        raise BundleError(f"{member.name}: not a plain file")
    return content
