"""The small state that can be rebuilt: what was reported last, what `status` shows. sqlitedict with JSON.

sqlitedict writes with synchronous=OFF, so a power cut may cost the file: nothing is in it that must last.
"""

import contextlib
import logging
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
from sqlitedict import SqliteDict

from roadloop_agent.link.sketches import SketchMemory
from roadloop_agent.link.value import Memory
from roadloop_models.errors import NotFoundError
from roadloop_models.typed import from_builtins, from_json

_LOG = logging.getLogger(__name__)
_SKETCHES = "sketches"
_OPEN_SKETCHES = "open-sketches"


class Cache:
    """Key -> JSON-able value. A file that does not open is begun anew."""

    def __init__(self, path: Path) -> None:
        if not _is_database(path):
            path.unlink(missing_ok=True)
        self._table = _open(path, "c")

    def put(self, key: str, value: Any) -> None:
        """Remember a value. What the disk has no room for is not remembered: that must stop nobody."""
        try:
            self._table[key] = value
            self._table.commit(blocking=True)
        except sqlite3.Error as error:
            _LOG.error("cache: '%s' is not remembered: %s", key, error)

    def sketches(self) -> Memory:
        """What was learnt of the telemetry's value; empty where nothing that can be read is there."""
        with contextlib.suppress(KeyError, msgspec.ValidationError):
            return from_builtins(self._table[_SKETCHES], Memory, str_keys=True)
        return Memory()

    def put_sketches(self, memory: Memory) -> None:
        """Remember it."""
        self.put(_SKETCHES, msgspec.to_builtins(memory))

    def open_sketches(self) -> SketchMemory:
        """What was being sketched; nothing where nothing that can be read is there."""
        with contextlib.suppress(KeyError, msgspec.ValidationError):
            return from_builtins(self._table[_OPEN_SKETCHES], SketchMemory, str_keys=True)
        return SketchMemory()

    def put_open_sketches(self, memory: SketchMemory) -> None:
        """Remember it."""
        self.put(_OPEN_SKETCHES, msgspec.to_builtins(memory, str_keys=True))

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(sqlite3.Error):
            self._table.close()


def read_cache(path: Path, key: str) -> Any:
    """One value, from another process. Raises NotFoundError where there is none."""
    if not path.exists():
        raise NotFoundError(f"{path}: there is none; has the agent ever run here?")
    with _open(path, "r") as table:
        try:
            return table[key]
        except KeyError as error:
            raise NotFoundError(f"{path}: nothing is known of '{key}' yet") from error


def _is_database(path: Path) -> bool:
    """Looked at here, because sqlitedict would find it out in a thread of its own."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as db:
            return bool(db.execute("PRAGMA quick_check").fetchone()[0] == "ok")
    except sqlite3.Error:
        return False


def _open(path: Path, flag: str) -> Any:
    return SqliteDict(
        str(path),
        tablename="state",
        flag=flag,
        outer_stack=False,
        encode=lambda value: msgspec.json.encode(value).decode(),
        decode=lambda text: from_json(text, Any),
    )
