"""Whether the director has anything new, without verifying again what was verified: no cryptography, nothing loaded.

What comes is compared, byte by byte, with what was remembered after it had been verified. Only where that is the same,
holds still, and the time is not in doubt, there is nothing new; all else takes python-tuf's client (director.py).
"""

from datetime import datetime
from pathlib import Path
from typing import Protocol

import msgspec
from tuf.api.exceptions import DownloadHTTPError

from roadloop_agent.update import disk
from roadloop_agent.update.director_memory import FLOOR_NAME, Memory, read_memory
from roadloop_agent.update.fetch import MAX_METADATA_BYTES
from roadloop_agent.update.floor import Floor, read_floor
from roadloop_agent.update.refused import MetadataError
from roadloop_agent.update.trusted_time import TrustedTime
from roadloop_agent.update.tuf_errors import tuf_errors
from roadloop_models.typed import from_json

METADATA_URL = "director/metadata/"
MISSING = (403, 404)


class Fetcher(Protocol):
    """The part of a fetcher that reads metadata."""

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """A metadata file."""
        ...


class _Signed(msgspec.Struct, frozen=True):
    version: int
    expires: datetime


class _Timestamp(msgspec.Struct, frozen=True):
    signed: _Signed


def unchanged(directory: Path, fetcher: Fetcher, time: TrustedTime) -> int | None:
    """The version of the remembered assignment where it is the newest still; None where a closer look is needed.

    Raises RetryLaterError where the director does not answer, MetadataError where the answer is too long.
    """
    with disk.disk_errors(directory):
        floor, memory = read_floor(directory / FLOOR_NAME), read_memory(directory)
    if floor is None or memory is None or time.must_ask(floor.time) or not _holds(memory, floor, time):
        return None
    with tuf_errors(MetadataError, time.now(floor.time)):
        if _exists(fetcher, f"{METADATA_URL}{floor.versions['root'] + 1}.root.json"):
            return None
        timestamp = fetcher.download_bytes(f"{METADATA_URL}timestamp.json", MAX_METADATA_BYTES)
    return floor.versions["targets"] if timestamp == memory.timestamp.encode() else None


def _holds(memory: Memory, floor: Floor, time: TrustedTime) -> bool:
    try:
        signed = from_json(memory.timestamp, _Timestamp).signed
    except msgspec.DecodeError:
        return False
    return signed.version == floor.versions.get("timestamp") and time.now(floor.time) < signed.expires


def _exists(fetcher: Fetcher, url: str) -> bool:
    try:
        fetcher.download_bytes(url, MAX_METADATA_BYTES)
    except DownloadHTTPError as error:
        if error.status_code not in MISSING:
            raise
        return False
    return True
