"""Supervision with children and a clock that the test controls."""

import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from roadloop_cloud.supervise import RESTART_MAX_S, RESTART_MIN_S, STABLE_AFTER_S, ChildSpec, Supervisor, spawn_child


@dataclass
class FakeProcess:
    """A child that ends when the test, or a signal that it minds, says so."""

    name: str
    log: list[str]
    stubborn: bool = False
    pid: int = 1
    status: int | None = None

    def poll(self) -> int | None:
        return self.status

    def send_signal(self, number: int, /) -> None:
        self.log.append(f"{self.name} {signal.Signals(number).name}")
        if number == signal.SIGKILL or not self.stubborn:
            self.status = -number

    def wait(self, timeout: float | None = None) -> int:
        if self.status is None:
            raise subprocess.TimeoutExpired(self.name, timeout or 0)
        return self.status


@dataclass
class Bench:
    """A supervisor of two children, one of which serves the other."""

    now_s: float = 0.0
    log: list[str] = field(default_factory=list)
    started: list[FakeProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        specs = [ChildSpec("broker", ["b"], Path(), Path("b.log"), serves_others=True)]
        specs += [ChildSpec("ingest", ["i"], Path(), Path("i.log"))]
        self.supervisor = Supervisor(specs, self.spawn, lambda: self.now_s)
        self.supervisor.poll()

    def spawn(self, spec: ChildSpec) -> FakeProcess:
        self.started.append(FakeProcess(spec.name, self.log))
        return self.started[-1]

    def running(self, name: str) -> FakeProcess | None:
        process = next(child.process for child in self.supervisor.children if child.spec.name == name)
        assert process is None or isinstance(process, FakeProcess)
        return process


def test_who_reads_which_process_a_child_is_finds_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    told = tmp_path / "child.pid"
    told.write_text("17\n")
    with told.open() as before:
        child = spawn_child(ChildSpec("child", ["true"], tmp_path, tmp_path / "child.log"))
        assert before.read() == "17\n"  # replaced, and never there without a number
    child.wait(60)
    assert int(told.read_text()) == child.pid


def test_a_child_that_keeps_ending_is_restarted_with_growing_pauses() -> None:
    bench = Bench()
    pauses = []
    for _ in range(9):
        process = bench.running("ingest")
        assert process is not None
        process.status = 1
        ended_s = bench.now_s
        bench.supervisor.poll()
        while bench.running("ingest") is None:
            bench.now_s += 0.25
            bench.supervisor.poll()
        pauses.append(bench.now_s - ended_s)
    assert pauses[0] == RESTART_MIN_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == RESTART_MAX_S
    assert [process.name for process in bench.started].count("broker") == 1


def test_a_child_that_ran_well_restarts_quickly_again() -> None:
    bench = Bench()
    for _ in range(5):
        process = bench.running("ingest")
        assert process is not None
        process.status = 1
        bench.supervisor.poll()
        bench.now_s += RESTART_MAX_S
        bench.supervisor.poll()
    bench.now_s += STABLE_AFTER_S
    process = bench.running("ingest")
    assert process is not None
    process.status = 0
    bench.supervisor.poll()
    bench.now_s += RESTART_MIN_S
    bench.supervisor.poll()
    assert bench.running("ingest") is not None
    assert "restarted 6x" in bench.supervisor.children[1].state


def test_what_serves_others_is_stopped_after_them() -> None:
    bench = Bench()
    bench.supervisor.stop()
    assert bench.log == ["ingest SIGTERM", "broker SIGTERM"]


def test_what_does_not_stop_is_killed() -> None:
    bench = Bench()
    bench.started[1].stubborn = True
    bench.supervisor.stop(timeout_s=0.0)
    assert bench.log == ["ingest SIGTERM", "ingest SIGKILL", "broker SIGTERM"]
