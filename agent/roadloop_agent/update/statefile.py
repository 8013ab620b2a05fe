"""The store's state on disk: checked when it is read, and never the only copy.

    state.json             {"sha256": …, "state": …}: the digest is of the bytes of the state
    state.previous.json    the same before the last change

A bit that flips in a name or a number gives a file that still parses; the digest tells. Then the state before it holds:
the versions that it names were still needed when it was replaced, and what was collected since is found damaged, and
gives way, when it is loaded.
"""

import hashlib
import logging
from pathlib import Path

import msgspec

from roadloop_agent.update import disk
from roadloop_agent.update.state import StoreState
from roadloop_models.errors import BundleError, ConfigError
from roadloop_models.typed import from_json

_LOG = logging.getLogger(__name__)
MAX_STATE_BYTES = 1 << 20
NAME, PREVIOUS_NAME, DAMAGED_NAME = "state.json", "state.previous.json", "state.damaged.json"


class _Checked(msgspec.Struct, frozen=True):
    sha256: str
    state: msgspec.Raw


class StateFile:
    """See the module. Who writes holds the store's lock."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._previous = directory / PREVIOUS_NAME

    def exists(self) -> bool:
        """Whether there is a state, sound or not."""
        return self._path.exists() or self._previous.exists()

    def read(self) -> StoreState:
        """The state, or where it is damaged the one before.

        Raises ConfigError where there is none, BundleError where both are damaged.
        """
        if not self.exists():
            raise ConfigError(f"{self._path}: the vehicle is not provisioned yet; it is when the agent starts")
        try:
            return _read(self._path)
        except (BundleError, FileNotFoundError) as error:
            try:
                stored = _read(self._previous)
            except (BundleError, FileNotFoundError):
                raise BundleError(str(error)) from error
            _LOG.error("%s; the state before it holds", error)
            return stored

    def write(self, stored: StoreState) -> None:
        """Replace the state. Raises OSError."""
        self._keep_previous()
        content = msgspec.json.format(msgspec.json.encode(stored), indent=1)
        checked = _Checked(hashlib.sha256(content).hexdigest(), msgspec.Raw(content))
        disk.write_durably(self._path, msgspec.json.encode(checked))

    def set_aside(self) -> None:
        """Keep a damaged file for a person. It stays where it is until it is replaced: none would be worse."""
        damaged = self._path.with_name(DAMAGED_NAME)
        damaged.unlink(missing_ok=True)
        if self._path.exists():
            disk.link_or_copy(self._path, damaged)

    def _keep_previous(self) -> None:
        """The sound state gets a second name: nothing is copied, and there is one at every instant."""
        try:
            _read(self._path)
        except (BundleError, FileNotFoundError):
            return  # what is there is no state to fall back on
        temporary = self._previous.with_name(f".{PREVIOUS_NAME}.tmp")
        temporary.unlink(missing_ok=True)
        disk.link_or_copy(self._path, temporary)
        disk.sync_file(temporary)
        temporary.rename(self._previous)


def _read(path: Path) -> StoreState:
    """Raises BundleError where it is damaged, FileNotFoundError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_STATE_BYTES)
        checked = from_json(raw, _Checked)
        content = bytes(checked.state)
        if hashlib.sha256(content).hexdigest() != checked.sha256:
            raise BundleError(f"{path}: its checksum does not hold")
        return from_json(content, StoreState)
    except FileNotFoundError:
        raise
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: {error}") from error
