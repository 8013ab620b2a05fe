"""A file that is being downloaded: what came so far, and which bytes these are, on disk.

`<sha256>.part` has every block at its place, `<sha256>.have` one byte per block: 0 where nothing came, 255 where the
block is whole, m in between where its first 256 * m bytes are here (a stream that broke off within it). Each is one
write, data first, so a kill costs at most what was under way. A power cut may keep the byte and lose the data: the hash
of the whole file finds that out, and it is fetched anew.
"""

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from roadloop_agent.update import disk
from roadloop_agent.update.blocks import block_count
from roadloop_models.bundle import file_sha256
from roadloop_models.contract.channels import BLOCK_BYTES

_WHOLE = 255
_UNIT_BYTES = 256


class PartFile:
    """One download on disk; `have` are the numbers of the whole blocks that are here. Raises DiskFullError."""

    def __init__(self, directory: Path, sha256: str, size_bytes: int) -> None:
        self.sha256 = sha256
        self.size_bytes = size_bytes
        self.have: set[int] = set()
        self._begun: dict[int, int] = {}
        """Block -> how many of its first bytes are here, less than all."""
        self._directory = directory
        self._part = directory / f"{sha256}.part"
        self._marks = directory / f"{sha256}.have"
        with disk.disk_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            self._read()
        if not self.have and not self._begun:
            self.begin_anew()

    def write(self, n: int, data: bytes) -> None:
        """Keep block `n`, whole."""
        self._put(n, 0, data)

    def append(self, first: int, data: bytes) -> list[int]:
        """Keep bytes of a stream that begins where a gap does; the blocks that they complete."""
        completed = []
        view = memoryview(data)
        while view:
            n, offset = divmod(first, BLOCK_BYTES)
            piece = view[: BLOCK_BYTES - offset]
            self._put(n, offset, piece)
            if n in self.have:
                completed.append(n)
            view, first = view[len(piece) :], first + len(piece)
        return completed

    def gaps(self) -> list[tuple[int, int]]:
        """What is missing: first byte, and the first that is not missing any more."""
        gaps: list[tuple[int, int]] = []
        for n in range(block_count(self.size_bytes)):
            if n in self.have:
                continue
            first = n * BLOCK_BYTES + self._begun.get(n, 0)
            end = min((n + 1) * BLOCK_BYTES, self.size_bytes)
            if gaps and gaps[-1][1] == first:
                gaps[-1] = (gaps[-1][0], end)
            else:
                gaps.append((first, end))
        return gaps

    def is_sound(self) -> bool:
        """Whether the content has the hash that was asked for."""
        return file_sha256(self._part) == self.sha256

    def open(self) -> BinaryIO:
        """The content, for reading."""
        return self._part.open("rb")

    def begin_anew(self) -> None:
        """Forget what came."""
        self.discard()
        with disk.disk_errors(self._directory):
            disk.require_room(self._directory, 2 * self.size_bytes)  # the part, and the file that is made of it
            with self._part.open("wb") as file:
                file.truncate(self.size_bytes)
            self._marks.write_bytes(bytes(block_count(self.size_bytes)))

    def discard(self) -> None:
        """Remove both files."""
        self._marks.unlink(missing_ok=True)
        self._part.unlink(missing_ok=True)
        self.have, self._begun = set(), {}

    def _put(self, n: int, offset: int, data: bytes | memoryview) -> None:
        """Write what continues block `n` at `offset`, then how far it goes."""
        here = offset + len(data)
        whole = here == min(BLOCK_BYTES, self.size_bytes - n * BLOCK_BYTES)
        mark = _WHOLE if whole else min(here // _UNIT_BYTES, _WHOLE - 1)
        with disk.disk_errors(self._part):
            _write_at(self._part, n * BLOCK_BYTES + offset, data)
            _write_at(self._marks, n, bytes([mark]))
        if whole:
            self._begun.pop(n, None)
            self.have.add(n)
        else:
            self._begun[n] = here

    def _read(self) -> None:
        try:
            marks = self._marks.read_bytes()
            if len(marks) == block_count(self.size_bytes) and self._part.stat().st_size == self.size_bytes:
                self.have = {n for n, mark in enumerate(marks) if mark == _WHOLE}
                self._begun = {n: mark * _UNIT_BYTES for n, mark in enumerate(marks) if 0 < mark < _WHOLE}
        except FileNotFoundError:
            pass


def _write_at(path: Path, offset: int, data: bytes | memoryview) -> None:
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
