"""A PostgreSQL of this machine on a cluster of its own, which can be killed and started again."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from tests.fakes.live_cloud import free_port

_START_S = 30.0


def missing() -> str | None:
    """Why there can be none here; None where there can."""
    if find_spec("psycopg") is None:
        return "psycopg is not installed (the extra 'postgres')"
    if _program("initdb") is None:
        return "there is no PostgreSQL on this machine"
    if os.geteuid() == 0 and _account() is None:
        return "PostgreSQL does not run as root, and there is no account 'postgres'"
    return None


class Postgres:
    """Listens on a port of the system's choice, for the account `roadloop` and without a password, on loopback."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="roadloop-postgres-"))
        self._port = free_port()
        account = _account()
        self._user = account if os.geteuid() == 0 else None
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        command = ("-D", str(self._folder / "data"), "-A", "trust", "-U", "roadloop", "--no-sync")
        subprocess.run([str(_program("initdb")), *command], check=True, capture_output=True, user=self._user, cwd="/")
        self.start()

    @property
    def url(self) -> str:
        """For SQLAlchemy."""
        return f"postgresql+psycopg://roadloop@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Begin again, where it was killed with recovery, and wait until it answers."""
        options = ("-D", "data", "-k", ".", "-p", str(self._port), "-c", "listen_addresses=127.0.0.1")
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(_program("postgres")), *options],
                cwd=self._folder,
                user=self._user,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until_s = time.monotonic() + _START_S
        ready = [str(_program("pg_isready")), "-q", "-h", "127.0.0.1", "-p", str(self._port)]
        while subprocess.run(ready, check=False).returncode != 0:
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < until_s, "PostgreSQL does not answer"
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL for every process of it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def remove(self) -> None:
        """End it and leave nothing."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


def _program(name: str) -> Path | None:
    found = shutil.which(name)
    newest = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return Path(found) if found is not None else newest[-1] if newest else None


def _account() -> str | None:
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return None
