"""`roadloop-agent run`: what comes before the supervisor."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from roadloop_agent.app.store import open_store
from roadloop_agent.config import Config, load_config
from roadloop_agent.watch import child_command
from roadloop_models.errors import ConflictError

_LOCK_NAME = "agent.lock"


def run_agent(config_path: Path) -> NoReturn:
    """Look at all that can be wrong, then become the supervisor, until SIGTERM or SIGINT.

    Raises ConfigError where the configuration is wrong, TrustError or BundleError where the vehicle cannot be
    provisioned, ConflictError where another agent runs on the same state.
    """
    config = load_config(config_path)
    config.state_dir.mkdir(parents=True, exist_ok=True)
    _lock_state(config.state_dir)
    _provision_apart(config)
    watch = [sys.executable, "-m", "roadloop_agent.watch", str(config.path), str(config.state_dir)]
    os.execv(sys.executable, watch)


def _lock_state(state_dir: Path) -> None:
    """Hold the state until the supervisor, which inherits the lock, ends. Raises ConflictError."""
    lock = os.open(state_dir / _LOCK_NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise ConflictError(f"{state_dir}: another agent runs on this state; stop it first") from error
    os.set_inheritable(lock, True)


def _provision_apart(config: Config) -> None:
    """In a process of its own: what checks signatures needs more memory than any that stays should ever have."""
    if open_store(config).is_provisioned():
        return
    done = subprocess.run(child_command("provision", str(config.path)), check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)
