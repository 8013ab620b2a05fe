"""Faults at the calls of `os`: a child that is killed there, a write that is torn there, a disk that fails there."""

import errno
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

CALLS = ("write", "fsync", "rename", "replace", "link", "unlink", "mkdir", "rmdir", "open")


@contextmanager
def hooked(hook: Callable[[int, str, str, tuple[Any, ...]], None]) -> Iterator[None]:
    """Call `hook(number, name, "before" | "after", arguments)` around each call of `os` that is in CALLS."""
    count = 0

    def wrap(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            number = count
            hook(number, name, "before", args)
            result = real(*args, **kwargs)
            hook(number, name, "after", args)
            return result

        return call

    with ExitStack() as patches:
        for name in CALLS:
            patches.enter_context(mock.patch.object(os, name, wrap(name)))
        yield


def killed_at(number: int, moment: str, work: Callable[[], None]) -> bool:
    """Run `work` in a child that kills itself with SIGKILL at that call; False where it ended before it came so far.

    Raises AssertionError where `work` itself raised.
    """

    def hook(at: int, name: str, when: str, args: tuple[Any, ...]) -> None:
        if at == number and when == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        status = 1
        try:
            with hooked(hook):
                work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, f"the work failed before call {number}"
    return False


def torn_at(number: int, work: Callable[[], None]) -> bool:
    """Run `work` in a child whose write of that number puts down a part and then is killed; False where there is none.

    Raises AssertionError where `work` itself raised.
    """
    real, writes = os.write, [0]

    def write(descriptor: int, data: Any) -> int:
        writes[0] += 1
        if writes[0] == number:
            real(descriptor, bytes(data)[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return real(descriptor, data)

    child = os.fork()
    if child == 0:
        status = 1
        try:
            with mock.patch.object(os, "write", write):
                work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"the work failed before write {number}"
    return os.WIFSIGNALED(status)


@contextmanager
def failing_at(number: int, code: int, *, once: bool) -> Iterator[list[str]]:
    """Raise that errno from call `number`, only there or on every later one too; the names of the calls that failed.

    A full disk fails only what needs room.
    """
    failed: list[str] = []

    def hook(at: int, name: str, when: str, args: tuple[Any, ...]) -> None:
        if when == "after" or at < number or (once and failed):
            return
        if code == errno.ENOSPC and not (name in ("write", "mkdir", "link") or _creates(name, args)):
            return
        failed.append(name)
        raise OSError(code, os.strerror(code))

    with hooked(hook):
        yield failed


def _creates(name: str, args: tuple[Any, ...]) -> bool:
    return name == "open" and len(args) > 1 and bool(args[1] & os.O_CREAT) and not Path(args[0]).exists()


def flip_bit(path: Path, chance: random.Random) -> None:
    """Turn one bit of a file round. Where it has other names, those keep their content."""
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.unlink()
    path.write_bytes(content)
