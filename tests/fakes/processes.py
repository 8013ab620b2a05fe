"""What /proc tells of processes: who holds a file open, who descends from whom, who listens where."""

import os
import time
from collections.abc import Callable
from pathlib import Path

WAIT_S = 180.0


def until(reached: Callable[[], bool]) -> None:
    """Wait for it; fails after three minutes."""
    deadline_s = time.monotonic() + WAIT_S
    while not reached():
        assert time.monotonic() < deadline_s, "waited three minutes for nothing"
        time.sleep(0.05)


def holders(path: Path) -> list[int]:
    """Processes that have the file open."""
    return [pid for pid in _pids() if str(path) in _open_files(pid)]


def descendants(parent: int | None = None) -> list[int]:
    """Children of a process (this one), their children and so on; those that ended but were not waited for, not."""
    parents: dict[int, list[int]] = {}
    for pid in _pids():
        try:
            state, above = _stat(pid)
        except OSError:
            continue
        if state != "Z":
            parents.setdefault(above, []).append(pid)
    found, waiting = [], [os.getpid() if parent is None else parent]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def listening(pids: list[int]) -> set[str]:
    """Addresses on which the processes listen, as the kernel writes them: `0100007F` is 127.0.0.1."""
    inodes = {name for pid in pids for name in _open_files(pid) if name.startswith("socket:")}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.add(fields[1].split(":")[0])
    return found


LOOPBACK = {"0100007F", "00000000000000000000000001000000"}


def has_in_environment(pid: int, setting: str) -> bool:
    """Whether a process was started with `NAME=value` in its environment.

    One that gave itself a name wrote that name over it: then what it was started by tells.
    """
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    if environment.startswith(b"\0"):
        return has_in_environment(_stat(pid)[1], setting)
    return setting.encode() in environment.split(b"\0")


def _stat(pid: int) -> tuple[str, int]:
    """(state, parent)."""
    state, above = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    return state, int(above)


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _open_files(pid: int) -> set[str]:
    found = set()
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            found.add(str(entry.readlink()))
    except OSError:  # it ended meanwhile, or is somebody else's
        pass
    return found
