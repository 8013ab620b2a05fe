"""Runs twins in several processes and adds up what they say."""

import json
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from roadloop_agent.sim.fleet_folder import provisioned_folders
from roadloop_agent.sim.scenario import load_scenario
from roadloop_models.errors import FailedError

TWINS_A_PROCESS = 1500
_POLL_S = 0.5
_END_S = 30.0
"""Beyond the drain: how long a process may take to write its account."""
_SUMS = ("twins", "connected", "produced", "pending", "lost", "faults")
_COUNTS = ("running", "states")


def run_twins(
    fleet: Path,
    *,
    vehicles: int | None,
    scenario: Path | None,
    processes: int | None,
    stop: threading.Event,
    seconds: float | None,
    drain_s: float,
    show: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Run them for `seconds` (None: until `stop`); the account of all.

    Raises ConfigError where folder or scenario is wrong, FailedError where a process ended by itself.
    """
    count = len(provisioned_folders(fleet, vehicles))
    if scenario is not None:
        load_scenario(scenario)
    of = processes or max(1, -(-count // TWINS_A_PROCESS))
    with tempfile.TemporaryDirectory(prefix="twins-") as folder:
        accounts = [Path(folder) / f"{part}.json" for part in range(of)]
        children = [
            _Child(
                [
                    *(sys.executable, "-m", "roadloop_agent.sim.process", str(fleet)),
                    *("--vehicles", str(count), "--part", f"{part}/{of}", "--drain-s", str(drain_s)),
                    *("--account", str(accounts[part])),
                    *(() if scenario is None else ("--scenario", str(scenario))),
                ]
            )
            for part in range(of)
        ]
        try:
            _watch(children, stop, seconds, show)
        finally:
            for child in children:
                child.process.terminate()
            for child in children:
                child.end(drain_s + _END_S)
        failed = [child for child in children if child.process.returncode != 0]
        if failed:
            raise FailedError(
                f"{len(failed)} of {of} processes of twins failed, the first with status {failed[0].process.returncode}"
            )
        parts = [json.loads(path.read_text(encoding="utf-8")) for path in accounts]
    return {
        "status": added([part["status"] for part in parts]),
        "twins": [twin for part in parts for twin in part["twins"]],
    }


def added(statuses: list[dict[str, Any]]) -> dict[str, Any]:
    """The statuses of several processes as one."""
    total: dict[str, Any] = {name: sum(status[name] for status in statuses) for name in _SUMS}
    for name in _COUNTS:
        counts: Counter[str] = Counter()
        for status in statuses:
            counts.update(status[name])
        total[name] = dict(sorted(counts.items()))
    return {**total, "late_s": max((status["late_s"] for status in statuses), default=0.0)}


class _Child:
    """A process of twins, and the last status that it printed."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.status: dict[str, Any] | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def end(self, timeout_s: float) -> None:
        """Wait for its end; kill it where that takes too long."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout_s)
        self.process.kill()
        self.process.wait()
        self._thread.join()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.status = json.loads(line)


def _watch(
    children: list[_Child], stop: threading.Event, seconds: float | None, show: Callable[[dict[str, Any]], None]
) -> None:
    left_s = float("inf") if seconds is None else seconds
    while left_s > 0 and not stop.wait(min(_POLL_S, left_s)):
        left_s -= _POLL_S
        if any(child.process.poll() is not None for child in children):
            return
        statuses = [child.status for child in children if child.status is not None]
        if statuses:
            show(added(statuses))
