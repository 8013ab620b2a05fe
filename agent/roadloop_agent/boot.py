"""The boot counter: a number that no start of drive ever shares with another, whatever was lost in between."""

import contextlib
import sqlite3
from pathlib import Path
from urllib.parse import quote

from roadloop_agent.update.disk import write_durably

BOOT_NAME = "boot"


def next_boot(state_dir: Path, spool: Path) -> int:
    """Count one start, durably, before drive gives its first number. Raises DiskFullError, RetryLaterError.

    Where the file is missing or damaged the spool tells the last boot: numbers used twice would look like duplicates
    to the cloud, and new samples would be thrown away.
    """
    path = state_dir / BOOT_NAME
    try:
        last = int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        last = 0
    boot = max(last, _last_in_spool(spool)) + 1
    write_durably(path, f"{boot}\n".encode("ascii"))
    return boot


def _last_in_spool(path: Path) -> int:
    if not path.exists():
        return 0
    # Read-only, so that closing it does not fold a long log back: drive waits for this.
    uri = f"file:{quote(str(path))}?mode=ro"
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(uri, timeout=1, uri=True)) as db:
        return int(db.execute("SELECT coalesce(max(boot), 0) FROM produced").fetchone()[0])
    return 0
