"""What somebody at the vehicle has said about releases: a small file in the state folder, written by a command.

Whoever may write the state folder may speak for the vehicle: its own user, and root.
"""

import fcntl
import logging
import os
from pathlib import Path
from typing import Annotated

import msgspec

from roadloop_agent.update import disk
from roadloop_agent.update.conditions import Asked
from roadloop_models.contract.messages import ReleaseRef
from roadloop_models.typed import from_json

_LOG = logging.getLogger(__name__)
FILE_NAME = "consents.json"
MAX_WORDS = 64
MAX_FILE_BYTES = 64 * 1024


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """A yes or a no to one release in one slot. It says nothing about another release."""

    slot: str
    ref: ReleaseRef
    granted: bool


class _File(msgspec.Struct, frozen=True, kw_only=True):
    words: Annotated[tuple[Word, ...], msgspec.Meta(max_length=MAX_WORDS)] = ()


class Consents:
    """See the module. Link reads it, again when it has changed; the command writes it."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE_NAME
        self._seen: tuple[int, int, int] | None = None
        self._words: dict[Asked, bool] = {}

    def words(self) -> dict[Asked, bool]:
        """All that was said. A file that cannot be read says nothing: then the vehicle asks on."""
        try:
            stat = self._path.stat()
            seen = (stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns)
            if seen != self._seen:
                self._words = {(word.slot, word.ref): word.granted for word in self._read()}
                self._seen = seen
        except FileNotFoundError:
            self._words, self._seen = {}, None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            if self._words or self._seen is not None:
                _LOG.error("%s: %s; nobody has said anything, then", self._path, error)
            self._words, self._seen = {}, None
        return self._words

    def say(self, word: Word) -> None:
        """Remember a word; a later one about the same release replaces it. Raises DiskFullError, RetryLaterError."""
        with disk.disk_errors(self._path):
            lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                others = [each for each in self._read_or_none() if (each.slot, each.ref) != (word.slot, word.ref)]
                disk.write_durably(self._path, msgspec.json.encode(_File(words=(*others, word)[-MAX_WORDS:])))
                self._hand_over()
            finally:
                os.close(lock)

    def _read(self) -> tuple[Word, ...]:
        with self._path.open("rb") as file:
            return from_json(file.read(MAX_FILE_BYTES), _File).words

    def _read_or_none(self) -> tuple[Word, ...]:
        try:
            return self._read()
        except FileNotFoundError:
            return ()
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            _LOG.error("%s: %s; it is begun anew", self._path, error)
            return ()

    def _hand_over(self) -> None:
        """What root has written is for the agent to read, which runs as the owner of the folder."""
        owner = self._path.parent.stat()
        if os.geteuid() == 0:
            for path in (self._path, self._path.with_suffix(".lock")):
                os.chown(path, owner.st_uid, owner.st_gid)
