"""A measured figure, and the groups that figures come in."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

Direction = Literal["at most", "at least"]


@dataclass(frozen=True)
class Figure:
    """One figure: its bar is what the project asks of it; `holds` is None where none is asked."""

    name: str
    value: float
    unit: str
    command: str
    bar: float | None = None
    direction: Direction = "at most"

    @property
    def holds(self) -> bool | None:
        """Whether the value meets its bar."""
        if self.bar is None:
            return None
        return self.value <= self.bar if self.direction == "at most" else self.value >= self.bar

    @property
    def bar_text(self) -> str | None:
        """`<= 25` or `>= 99.0`."""
        return None if self.bar is None else f"{'<=' if self.direction == 'at most' else '>='} {self.bar:g}"


@dataclass(frozen=True)
class Skipped:
    """A figure that could not be measured here, and why."""

    name: str
    reason: str


Result = Figure | Skipped


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    packages = {name: version(name) for name in ("numpy", "onnxruntime", "ai-edge-litert", "opencv-python-headless")}
    return {
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        **packages,
    }


def paired_medians_us(
    first: Callable[[], object], second: Callable[[], object], rounds: int, per_round: int
) -> tuple[float, float]:
    """Median microseconds of two calls that take turns in one run, so that a change of clock speed meets both."""
    times: tuple[list[int], list[int]] = ([], [])
    for _ in range(rounds):
        for call, into in ((first, times[0]), (second, times[1])):
            for _ in range(per_round):
                begin = time.perf_counter_ns()
                call()
                into.append(time.perf_counter_ns() - begin)
    return statistics.median(times[0]) / 1000, statistics.median(times[1]) / 1000


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
