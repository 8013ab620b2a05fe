"""What the processes drive and link have in common."""

import signal
import threading
import time
from collections.abc import Callable


def wall_ms() -> int:
    """Now, in ms since 1970."""
    return time.time_ns() // 1_000_000


def stop_on_sigterm(wake: Callable[[], None] | None = None) -> threading.Event:
    """What SIGTERM sets, and then calls `wake`. SIGINT is the supervisor's, and ignored."""
    stop = threading.Event()

    def on_signal(_number: int, _frame: object) -> None:
        stop.set()
        if wake is not None:
            wake()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return stop
