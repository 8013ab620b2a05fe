"""Runs a command under the restrictions that a systemd unit asks for and that need no systemd: system calls, address
families, and no memory that is both writable and executable.

python tests/fakes/sandbox.py UNIT COMMAND…

It builds with libseccomp what systemd itself builds (SystemCallFilter=, SystemCallErrorNumber=EPERM,
RestrictAddressFamilies=, MemoryDenyWriteExecute=, and the clone3 that RestrictNamespaces= cannot look into).
"""

import ctypes
import ctypes.util
import errno
import os
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_PROT_WRITE, _PROT_EXEC = 2, 4
_EQ, _MASKED_EQ = 4, 7
_UNKNOWN = -1


class _Compare(ctypes.Structure):
    _fields_ = [
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    ]


def directives(unit: Path, name: str) -> list[str]:
    """The values of a directive, in order."""
    lines = unit.read_text(encoding="utf-8").splitlines()
    return [line.partition("=")[2].strip() for line in lines if line.startswith(f"{name}=")]


def allowed_calls(unit: Path) -> set[str]:
    """What SystemCallFilter= leaves: an allow-list from which later lines take, or to which they add."""
    allowed: set[str] = set()
    for value in directives(unit, "SystemCallFilter"):
        calls = {call for name in value.removeprefix("~").split() for call in _resolve(name)}
        allowed = allowed - calls if value.startswith("~") else allowed | calls
    return allowed


@cache
def _resolve(name: str) -> frozenset[str]:
    if not name.startswith("@"):
        return frozenset({name})
    done = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True)
    entries = [line.strip() for line in done.stdout.splitlines()[1:]]
    return frozenset(call for entry in entries if entry and not entry.startswith("#") for call in _resolve(entry))


def confine(unit: Path) -> None:
    """Put this process, and all that it starts, under the unit's restrictions."""
    library = ctypes.CDLL(ctypes.util.find_library("seccomp") or "libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(_ERRNO | errno.EPERM))

    def rule(action: int, name: str, *compare: _Compare) -> None:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == _UNKNOWN:
            return  # a system call of another architecture
        array = (_Compare * len(compare))(*compare)
        code = library.seccomp_rule_add_array(context, ctypes.c_uint32(action), number, len(compare), array)
        # Numbers below 0 are calls that this architecture lacks.
        assert code == 0 or number < 0, f"{name}: {os.strerror(-code)}"

    for name in sorted(allowed_calls(unit) - {"mmap", "mprotect", "pkey_mprotect", "socket", "clone3"}):
        rule(_ALLOW, name)
    for bits in (0, _PROT_WRITE, _PROT_EXEC):
        rule(_ALLOW, "mmap", _Compare(2, _MASKED_EQ, _PROT_WRITE | _PROT_EXEC, bits))
    rule(_ALLOW, "mprotect", _Compare(2, _MASKED_EQ, _PROT_EXEC, 0))
    rule(_ERRNO | errno.ENOSYS, "clone3")
    (families,) = directives(unit, "RestrictAddressFamilies")
    for family in families.split():
        rule(_ALLOW, "socket", _Compare(0, _EQ, getattr(socket, family), 0))
    code = library.seccomp_load(context)
    assert code == 0, os.strerror(-code)


def main() -> None:
    """See the module."""
    unit, *command = sys.argv[1:]
    confine(Path(unit))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
