"""Writing files so that a kill or a power cut leaves either the old content or the new one, never a torn one."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Make renames in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace a file's content: temporary file, fsync, rename, fsync of the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def copy_atomic(source: Path, path: Path) -> None:
    """The same for the content of another file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    shutil.copyfile(source, temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def sync_tree(directory: Path) -> None:
    """Make all files below a directory durable, and the directories themselves."""
    for folder, _, names in os.walk(directory, topdown=False):
        for name in names:
            with (Path(folder) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_directory(Path(folder))


def move_tree_durably(staging: Path, target: Path) -> None:
    """Give a finished directory its name. It must not exist yet."""
    sync_tree(staging)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging.rename(target)
    sync_directory(target.parent)


def copy_tree_durably(source: Path, target: Path, names: list[str]) -> None:
    """Copy the named files of one directory to a new one, which appears only when it is complete."""
    staging = target.with_name(f".{target.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        for name in names:
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, staging / name)
        move_tree_durably(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock among processes; the kernel lets it go when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
