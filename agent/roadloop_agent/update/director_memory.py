"""The signed files of the director as they came: one file, replaced as one. Read without python-tuf."""

import errno
import logging
from pathlib import Path

import msgspec

from roadloop_agent.update import disk
from roadloop_models.typed import from_json

_LOG = logging.getLogger(__name__)
MEMORY_NAME, FLOOR_NAME = "metadata.json", "floor.json"


class Memory(msgspec.Struct, frozen=True):
    """`roots` are those after the provisioned one, by version."""

    roots: dict[int, str]
    timestamp: str
    snapshot: str
    targets: str


def read_memory(directory: Path) -> Memory | None:
    """What was remembered; None where there is nothing, or where it is damaged. Raises OSError."""
    path = directory / MEMORY_NAME
    try:
        return from_json(path.read_bytes(), Memory)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _LOG.error("%s: %s; fetching all of it again", path, error)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        _LOG.error("%s: %s; fetching all of it again", path, error)
    return None


def write_memory(directory: Path, memory: Memory) -> None:
    """Durably. Raises OSError."""
    disk.write_durably(directory / MEMORY_NAME, msgspec.json.encode(memory))
