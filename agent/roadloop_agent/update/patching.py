"""Files made from what is installed: a signed patch comes instead of the whole file, where there is one.

A patch can only save bytes. What it makes must have the signed hash of the whole file; where anything is wrong with
it, that is said and the whole file is fetched.
"""

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from roadloop_agent.update import disk
from roadloop_agent.update.store import Store
from roadloop_models.bundle import FileEntry
from roadloop_models.bundle.delta import KINDS, MAX_PATCHED_BYTES, PatchKind, apply_patch
from roadloop_models.contract.messages import ReleaseRef
from roadloop_models.errors import BadInputError, BundleError, DiskFullError, FetchInterruptedError, RetryLaterError

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile

    from roadloop_agent.update.trust import SignedTargets

_LOG = logging.getLogger(__name__)
PATCHES = ".patches"
_MAX_INTERRUPTIONS = 3
"""How often a patch may stop on its way, each time after a refresh that worked, until the whole file is fetched."""


@dataclass(frozen=True)
class Patch:
    """A signed patch, the installed file that it applies to, and what it makes."""

    target: "TargetFile"
    kind: PatchKind
    base: Path
    entry: FileEntry

    @property
    def size_bytes(self) -> int:
        """What is to be received."""
        return self.target.length


class Patches:
    """Finds and applies patches; remembers which of them could not be had, until the process ends."""

    def __init__(self, store: Store) -> None:
        """Patches apply to what `store` has installed."""
        self._store = store
        self._interruptions: Counter[str] = Counter()

    def find(self, signed: "SignedTargets", ref: ReleaseRef, entry: FileEntry) -> Patch | None:
        """The smallest patch that makes `entry` of an installed file; None where none is signed that saves bytes.

        Raises MetadataError where the metadata cannot be relied on.
        """
        if entry.size_bytes > MAX_PATCHED_BYTES:
            return None
        found = []
        for held, path in self._store.files_of(ref.task):
            target = signed.patch(ref, entry, held.sha256)
            kind = None if target is None else (target.custom or {}).get("patch")
            if target is None or kind not in KINDS or self._interruptions[target.path] >= _MAX_INTERRUPTIONS:
                continue
            found.append(Patch(target, kind, path, entry))
        smallest = min(found, key=lambda patch: patch.size_bytes, default=None)
        return smallest if smallest is not None and smallest.size_bytes < entry.size_bytes else None

    def make(self, signed: "SignedTargets", patch: Patch, directory: Path) -> bool:
        """Fetch a patch and write the file that it makes below `directory`; False where the whole file is needed.

        Raises FetchInterruptedError where the connection is lost or the download is given up, DiskFullError.
        """
        try:
            received = directory / PATCHES / patch.target.hashes["sha256"]
            signed.download(patch.target, received)
            content = _patched(patch, received)
        except FetchInterruptedError:
            self._interruptions[patch.target.path] += 1
            raise
        except DiskFullError:
            raise
        except (BadInputError, RetryLaterError, OSError, MemoryError) as error:
            _LOG.warning("%s: %s; fetching the whole file", patch.target.path, error or type(error).__name__)
            return False
        _place(content, directory / patch.entry.path)
        _LOG.info("%s: made of %d bytes instead of %d", patch.entry.path, patch.size_bytes, patch.entry.size_bytes)
        return True


def _patched(patch: Patch, received: Path) -> bytes:
    content = apply_patch(patch.kind, patch.base.read_bytes(), received.read_bytes(), patch.entry.size_bytes)
    if hashlib.sha256(content).hexdigest() != patch.entry.sha256:
        raise BundleError(f"what it makes of {patch.base} does not have the signed SHA-256")
    return content


def _place(content: bytes, path: Path) -> None:
    incoming = path.with_name(f".{path.name}.incoming")
    with disk.disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        disk.require_room(path.parent, len(content))
        incoming.write_bytes(content)
        incoming.rename(path)
