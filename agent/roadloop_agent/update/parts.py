"""A file that is being downloaded: its blocks so far, and which of them these are, on disk.

`<sha256>.part` has every block at its place, `<sha256>.have` one byte per block: 1 where the block was written. Each is
one write, data first, so a kill costs at most the block under way. A power cut may keep the byte and lose the data:
the hash of the whole file finds that out, and it is fetched anew.
"""

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from roadloop_agent.update import disk
from roadloop_agent.update.blocks import block_count
from roadloop_models.bundle import file_sha256
from roadloop_models.contract.channels import BLOCK_BYTES


class PartFile:
    """One download on disk; `have` are the numbers of the blocks that are here. Raises DiskFullError."""

    def __init__(self, directory: Path, sha256: str, size_bytes: int) -> None:
        self.sha256 = sha256
        self._part = directory / f"{sha256}.part"
        self._marks = directory / f"{sha256}.have"
        with disk.disk_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            self.have = self._read(block_count(size_bytes), size_bytes)
            if not self.have:
                disk.require_room(directory, 2 * size_bytes)  # the part, and the file that is made of it
                self._create(block_count(size_bytes), size_bytes)

    def write(self, n: int, data: bytes) -> None:
        """Keep block `n`."""
        with disk.disk_errors(self._part):
            _write_at(self._part, n * BLOCK_BYTES, data)
            _write_at(self._marks, n, b"\x01")
        self.have.add(n)

    def is_sound(self) -> bool:
        """Whether the content has the hash that was asked for."""
        return file_sha256(self._part) == self.sha256

    def open(self) -> BinaryIO:
        """The content, for reading."""
        return self._part.open("rb")

    def discard(self) -> None:
        """Remove both files."""
        self._marks.unlink(missing_ok=True)
        self._part.unlink(missing_ok=True)
        self.have = set()

    def _read(self, blocks: int, size_bytes: int) -> set[int]:
        try:
            marks = self._marks.read_bytes()
            if len(marks) == blocks and self._part.stat().st_size == size_bytes:
                return {n for n, mark in enumerate(marks) if mark == 1}
        except FileNotFoundError:
            pass
        return set()

    def _create(self, blocks: int, size_bytes: int) -> None:
        self._marks.unlink(missing_ok=True)
        with self._part.open("wb") as file:
            file.truncate(size_bytes)
        self._marks.write_bytes(bytes(blocks))


def _write_at(path: Path, offset: int, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written
    finally:
        os.close(descriptor)


def sha256_hex(content: bytes) -> str:
    """Hex SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()
