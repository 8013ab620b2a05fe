"""The least that a client of signed metadata believes: what `ngclient` itself forgets when its files are lost.

Kept durably beside the metadata, with a checksum: a flipped bit must neither lower what is believed nor raise it so
high that no honest version ever exceeds it. Where it is damaged, the metadata (which are signed) are all the memory.
"""

import errno
import hashlib
import logging
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from roadloop_agent.update import disk
from roadloop_agent.update.refused import MetadataError
from roadloop_models.typed import from_json

if TYPE_CHECKING:  # python-tuf takes 12 MB, and this is read before it is needed
    from tuf.api.metadata import Root, Snapshot, Timestamp

_LOG = logging.getLogger(__name__)


class Floor(msgspec.Struct, frozen=True):
    """Versions by role, the time of the last refresh that held, and the last counter of the director's assignments."""

    versions: dict[str, int]
    time: datetime
    keys: tuple[str, ...] = ()
    """The keys of snapshot and timestamp that vouched for the versions."""
    counter: int = 0


def read_floor(path: Path) -> Floor | None:
    """What was written; None where there is nothing, or where it is damaged. Raises OSError."""
    try:
        digest, _, content = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        digest, content = b"", b""
    try:
        if digest.decode() == hashlib.sha256(content).hexdigest():
            return from_json(content, Floor)
        problem = "its checksum does not hold"
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        problem = str(error)
    _LOG.error("%s: %s; what is beside it is all that is remembered", path, problem)
    return None


def write_floor(path: Path, floor: Floor) -> None:
    """Durably. Raises OSError."""
    content = msgspec.json.encode(floor)
    disk.write_durably(path, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def raised(floor: Floor, root: "Root", timestamp: "Timestamp", snapshot: "Snapshot", now: datetime) -> Floor:
    """The floor after a refresh. Raises MetadataError where a role is older than it was, or gone.

    New keys for snapshot or timestamp begin it again, as the specification's 5.3.11 asks: who stole the old ones may
    have signed a version so high that no honest one ever exceeds it.
    """
    keys = vouching_keys(root)
    believed = floor.versions if keys == floor.keys else {"root": floor.versions.get("root", 0)}
    versions = versions_of(root, timestamp, snapshot)
    for role, least in believed.items():
        if versions.get(role, 0) < least:
            raise MetadataError(
                f"{role}: version {versions.get(role, 'none')} is offered, {least} was seen before: rollback"
            )
    return Floor(versions, now, keys, floor.counter if keys == floor.keys else 0)


def versions_of(root: "Root", timestamp: "Timestamp", snapshot: "Snapshot") -> dict[str, int]:
    """By role; the snapshot names targets and each task's role, also those that nobody here has fetched.

    Some repositories name root there as well, of whatever version: the root that was followed counts.
    """
    named = {name.removesuffix(".json"): meta.version for name, meta in snapshot.meta.items()}
    return named | {"root": root.version, "timestamp": timestamp.version, "snapshot": snapshot.version}


def vouching_keys(root: "Root") -> tuple[str, ...]:
    """The keys of the roles that say what is newest."""
    return tuple(sorted({*root.roles["snapshot"].keyids, *root.roles["timestamp"].keyids}))
