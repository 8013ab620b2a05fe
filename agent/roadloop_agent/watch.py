"""`python -m roadloop_agent.watch CONFIG STATE_DIR`: what `roadloop-agent run` becomes when all has been looked at.

This process stays for ever, so it loads neither the configuration nor anything that reads it: it builds the supervisor
from its arguments alone. `app/` builds what the children are.
"""

import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence

from roadloop_agent.log import setup_logging
from roadloop_agent.sdnotify import Notifier
from roadloop_agent.socketpair import make_socketpair
from roadloop_agent.supervisor import Supervisor

_CHILD_ENVIRONMENT = {
    # Each child has a thread for each thing that it does; libraries that add one per core only take from them.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # glibc gives each thread an arena, and hands back less of more of them.
    "MALLOC_ARENA_MAX": "2",
}
"""What the children get unless the environment says otherwise."""


def watch(config: str, state_dir: str, environment: Mapping[str, str]) -> None:
    """Build the supervisor and run it, until SIGTERM or SIGINT."""
    drive_end, link_end = make_socketpair()

    def command(role: str, pipe: socket.socket, beat_fd: int) -> list[str]:
        fds = ["--pipe", str(pipe.fileno()), "--beat", str(beat_fd), "--parent", str(os.getpid())]
        return [*child_command(role, config), *fds]

    Supervisor(
        drive_command=lambda beat: command("drive", drive_end, beat),
        link_command=lambda beat: command("link", link_end, beat),
        check_command=[*child_command("check", config), "--state-dir", state_dir],
        pipe_fds=(drive_end.fileno(), link_end.fileno()),
        environment={**_CHILD_ENVIRONMENT, **environment},
        notifier=Notifier(environment),
        clock=time.monotonic,
    ).run()


def child_command(role: str, config: str) -> list[str]:
    """How a child process is started."""
    return [sys.executable, "-m", "roadloop_agent.app", role, "--config", config]


def main(arguments: Sequence[str]) -> int:
    """`arguments`: the absolute paths of vehicle.toml and of the state. The exit code."""
    config, state_dir = arguments
    setup_logging()
    watch(config, state_dir, os.environ)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
