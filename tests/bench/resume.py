"""How soon a vehicle decides again after a suspend: every process of the agent is stopped, and goes on."""

import os
import signal
import time
from functools import partial
from itertools import islice
from pathlib import Path

from roadloop_agent.tail import follow
from tests.bench.figures import Figure, Result
from tests.bench.memory import CAMERA, processes, running_agent
from tests.fakes.agent import TestVehicle

STOPPED_S = 25.0
"""Longer than the supervisor gives a child that makes no progress."""
ROUNDS = 2
_figure = partial(Figure, command="scripts/bench vehicle")


def figures(_data: Path | None) -> list[Result]:
    """The worst of a few rounds, from SIGCONT to the first decision about a frame captured after it."""
    with running_agent(CAMERA.format(runtime="onnx", rate_hz=10.0), "sign") as van:
        before = processes(van)
        worst_s = max(resume_s(van, STOPPED_S) for _ in range(ROUNDS))
        assert processes(van) == before, "a process was started anew: that is no resume"
    return [_figure("resume_to_inference_s", worst_s, "s", bar=2.0)]


def resume_s(van: TestVehicle, stopped_s: float) -> float:
    """Stop all, wait, go on; seconds from then until a decision about a new frame has reached a reader."""
    pids = list(processes(van).values())
    decisions = follow(van.directory / "state" / "results.sock")
    list(islice(decisions, 3))
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(stopped_s)
    begin_s, begin_ms = time.monotonic(), time.time_ns() // 1_000_000
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    for message in decisions:
        if message.get("t_ms", 0) >= begin_ms:
            return time.monotonic() - begin_s
    raise AssertionError("the results ended")
