"""Faults at the calls of `os`: a child process that is killed there, or a disk that is full there."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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
