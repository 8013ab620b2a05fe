"""python-tuf's client as both of a vehicle's repositories are read with it."""

from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from roadloop_agent.update.fetch import MAX_METADATA_BYTES
from roadloop_agent.update.glance import Fetcher as MetadataFetcher
from roadloop_models.errors import ConfigError


class Fetcher(Protocol):
    """The part of python-tuf's FetcherInterface that its client calls; BlockFetcher has it without importing tuf."""

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """A metadata file."""

    def download_file(self, url: str, max_length: int) -> AbstractContextManager[BinaryIO]:
        """A target."""


def open_client(
    metadata: Path, url: str, targets_url: str, fetcher: MetadataFetcher, *, root: bytes, now: datetime
) -> Updater:
    """A client that keeps its files in `metadata`, reads below the two addresses, and believes that it is `now`.

    A fetcher of metadata alone does for who downloads no target. `root` is passed each time, so a kill inside a refresh
    cannot leave a client without trust.
    """
    updater = Updater(
        str(metadata),
        url,
        target_base_url=targets_url,
        fetcher=cast(FetcherInterface, fetcher),
        config=UpdaterConfig(
            root_max_length=MAX_METADATA_BYTES,
            snapshot_max_length=MAX_METADATA_BYTES,
            targets_max_length=MAX_METADATA_BYTES,
        ),
        bootstrap=root,
    )
    updater._trusted_set.reference_time = now  # it reads the clock itself, and has no other way to be told
    return updater


def provisioned_file(path: Path) -> bytes:
    """A file that the vehicle was given. Raises ConfigError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; provision the vehicle anew") from error
