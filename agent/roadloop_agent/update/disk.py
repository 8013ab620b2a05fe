"""Writing so that a kill or a power cut leaves the old content or the new, never a part of it."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from roadloop_models.errors import DiskFullError, RetryLaterError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)
_COPY_BYTES = 1 << 20
RESERVE_BYTES = 1 << 20
"""Room that an update leaves for what else writes to the same disk."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise DiskFullError or RetryLaterError, naming `path`, where the system reports an OSError."""
    try:
        yield
    except OSError as error:
        name = error.filename or path
        if error.errno in _FULL:
            raise DiskFullError(f"{name}: no room left on the disk; nothing was changed") from error
        raise RetryLaterError(f"{name}: {error.strerror or error}") from error


def require_room(directory: Path, size_bytes: int) -> None:
    """Raise DiskFullError where `size_bytes` and the reserve do not fit on the disk of `directory`."""
    stats = os.statvfs(directory)
    free_bytes = stats.f_bavail * stats.f_frsize
    if free_bytes < size_bytes + RESERVE_BYTES:
        raise DiskFullError(f"{directory}: {free_bytes} bytes free, {size_bytes + RESERVE_BYTES} are needed")


def write_durably(path: Path, content: bytes) -> None:
    """Replace a file: temporary file, fsync, rename, fsync of the directory."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        try:
            write_all(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.rename(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of `content`, however little the system takes at a time."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_file(path: Path) -> None:
    """Make the content of a file durable."""
    _sync(path, os.O_RDONLY)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_or_copy(source: Path, target: Path) -> None:
    """Give `source` a second name; copies where the file system has no hard links. Not durable by itself."""
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        copy(source, target)


def copy(source: Path, target: Path) -> None:
    """Copy the content of a file. Not durable by itself."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        with source.open("rb") as file:
            while piece := file.read(_COPY_BYTES):
                write_all(descriptor, piece)
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Remove a directory and all below it, or nothing where it is absent."""
    with suppress(FileNotFoundError):
        shutil.rmtree(path)
