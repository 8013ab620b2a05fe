"""The steps of a retraining as its job records them: each with its result, its seconds and its processor time."""

import resource
from collections.abc import Callable, Mapping
from typing import Any

from roadloop_cloud.jobs import Work

Steps = Mapping[str, Any]
"""Of a job's row: step -> {"result", "seconds", "cpu_s"}."""

TEACH, QAT, EXPLAIN, CARD = "teach", "train quantization-aware", "explain", "card"
PUBLISH, DELIVERY = "publish", "delivery"


class TimedSteps:
    """Runs steps of one job, and keeps what each cost beside its result."""

    def __init__(self, work: Work, clock: Callable[[], float]) -> None:
        """`clock` gives seconds, monotonic."""
        self._work = work
        self._clock = clock
        self._names: list[str] = []

    def step(self, name: str, function: Callable[[], Any]) -> Any:
        """The result, from an earlier attempt or from now. JSON. What a killed attempt cost is not known to anybody."""

        def measured() -> dict[str, Any]:
            start_s, start_cpu_s = self._clock(), _cpu_s()
            result = function()
            cost = {"seconds": self._clock() - start_s, "cpu_s": _cpu_s() - start_cpu_s}
            return {"result": result, **{key: round(value, 2) for key, value in cost.items()}}

        self._names.append(name)
        return self._work.step(name, measured)["result"]

    def seconds(self) -> dict[str, float]:
        """Of every step so far."""
        return {name: self._work.job.steps[name]["seconds"] for name in self._names}


def spent_cpu_s(steps: Steps) -> float:
    """Processor time of all steps that were done."""
    return float(sum(step["cpu_s"] for step in steps.values()))


def delivered_bytes(steps: Steps) -> int:
    """What the vehicles of its rollout have to fetch, with the patches that fit them; 0 without one."""
    return int(steps[DELIVERY]["result"]) if DELIVERY in steps else 0


def published_release(steps: Steps) -> int | None:
    """The release that came of it."""
    return int(steps[PUBLISH]["result"]) if PUBLISH in steps else None


def taught_by(steps: Steps) -> str | None:
    """How labels call the teacher that looked at what the fleet sent; None where none did."""
    return str(steps[TEACH]["result"]["by"]) if TEACH in steps else None


def told(steps: Steps) -> dict[str, Any]:
    """What the steps that are not taken in every retraining came to; None where it did not, or not yet."""
    names = {"taught": TEACH, "quantization_aware": QAT, "explained": EXPLAIN, "card": CARD}
    return {key: steps[name]["result"] if name in steps else None for key, name in names.items()}


def _cpu_s() -> float:
    """Of this thread, and of the processes that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_THREAD, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
