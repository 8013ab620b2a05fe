"""Which file a vehicle means by a path, for every transport alike; no path leads out of what may be served."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

MAX_METADATA_BYTES = 512 * 1024
_PART = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,159}\Z")
_TARGET = re.compile(r"^([0-9a-f]{64})\..+\Z")


@dataclass(frozen=True)
class ServedFile:
    """A file as it is sent. Metadata is held as it was when asked for: the next moment it may be replaced."""

    path: str
    sha256: str
    size_bytes: int
    source: Path | bytes
    for_all: bool = False
    """Whether its content is named by its hash and the same for every vehicle, so that all may hear it at once."""

    def read(self, first: int, size_bytes: int) -> bytes:
        """At most `size_bytes` from byte `first` on. Raises OSError where the file has gone."""
        if isinstance(self.source, bytes):
            return self.source[first : first + size_bytes]
        with self.source.open("rb") as file:
            file.seek(first)
            return file.read(size_bytes)


class Files(Protocol):
    """What a transport serves from."""

    def find(self, vehicle: str, path: str) -> ServedFile | None:
        """The file that `vehicle` means by `path`; None where there is none for it."""
        ...


class RepositoryFiles:
    """The image repository: the same for every vehicle.

    Only `metadata/<name>` and `targets/.../<sha256>.<name>` exist for this; no path leads out, not by `..`, not by a
    link. A target is announced under the hash in its name: whether its content still has it the vehicle will check.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def find(self, vehicle: str, path: str) -> ServedFile | None:
        """See the class."""
        parts = path.split("/")
        if not all(_PART.match(part) for part in parts):
            return None
        found = self._root.joinpath(*parts)
        try:
            if found.resolve(strict=True) != found or not found.is_file():
                return None
            if parts[0] == "metadata" and len(parts) == 2:
                return metadata_file(found, path)
            named = _TARGET.match(parts[-1])
            if parts[0] != "targets" or len(parts) < 3 or named is None:
                return None
            return ServedFile(path, named.group(1), found.stat().st_size, found, for_all=True)
        except OSError:
            return None


def metadata_file(file: Path, name: str) -> ServedFile | None:
    """Metadata as it is now, served under `name`; None where it is larger than any vehicle reads."""
    with file.open("rb") as opened:
        content = opened.read(MAX_METADATA_BYTES + 1)
    if len(content) > MAX_METADATA_BYTES:
        return None
    return ServedFile(name, hashlib.sha256(content).hexdigest(), len(content), content)
