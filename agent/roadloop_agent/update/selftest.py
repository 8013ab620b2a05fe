"""What a bundle has to prove before it may run here, in its own process: a runtime that dies takes nothing with it.

`python -m roadloop_agent.update.selftest CHECK [KEY]` (a `Check` in JSON, the file of the sealing key) exits 0 where
the bundle computes here what it computed when it was built, and is not too slow beside what runs. Else it prints why:
one line of JSON, `{"code": …, "detail": …}`.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from roadloop_agent.update.latency import check_latency, is_too_slow
from roadloop_models.bundle.manifest import CPU_PROVIDERS
from roadloop_models.contract.messages import ErrorInfo
from roadloop_models.errors import (
    BadInputError,
    BundleError,
    GoldenMismatchError,
    LatencyError,
    RetryLaterError,
    RoadloopError,
)
from roadloop_models.sealed import FileKeyStore, KeyStore
from roadloop_models.typed import from_json

if TYPE_CHECKING:
    from roadloop_models.bundle import Bundle
    from roadloop_models.runners import FloatArray, Runner

_LOG = logging.getLogger(__name__)
TIMEOUT_S = 120.0
TIMING_S = 5.0
"""How long candidate and incumbent are timed at most, once each has run every golden input LEAST_ROUNDS times."""
LEAST_ROUNDS = 3
MOST_RUNS = 400
ATTEMPTS = 3
"""A release is too slow when it is so every time: a refusal is for good, and a machine may be busy for a while."""
_POLL_S = 0.2
_NICE = 10
_TAIL_CHARACTERS = 300
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

_AT_FAULT: dict[str, type[BadInputError]] = {
    error.code: error for error in (GoldenMismatchError, LatencyError, BundleError)
}


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be checked: one variant of a bundle, and against what."""

    directory: str
    variant: str
    incumbent: str | None = None
    """The directory of the bundle that runs now; None: there is nothing to compare the latency with."""
    max_latency_ratio: float = 3.0
    providers: tuple[str, ...] = CPU_PROVIDERS
    """ONNX Runtime's, as the slot has them."""


SelfTest = Callable[[Check, Callable[[], bool]], None]
"""(check, cancelled): raises where the bundle must not run here."""


class SubprocessSelfTest:
    """See the module. `command` is put before the check; `sealing_key` is where the key for sealed releases lies."""

    def __init__(
        self, command: Sequence[str] | None = None, timeout_s: float = TIMEOUT_S, sealing_key: Path | None = None
    ) -> None:
        self._command = tuple(command or (sys.executable, "-m", "roadloop_agent.update.selftest"))
        self._timeout_s = timeout_s
        self._key = () if sealing_key is None else (str(sealing_key),)

    def __call__(self, check: Check, cancelled: Callable[[], bool]) -> None:
        """Run it.

        Raises GoldenMismatchError, LatencyError or BundleError where the bundle is at fault, else RetryLaterError.
        """
        try:
            process = subprocess.Popen(
                [*self._command, msgspec.json.encode(check).decode(), *self._key],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise RetryLaterError(f"the self-test could not start: {error}") from error
        with process:
            output = self._wait(process, cancelled)
        _judge(process.returncode, output)

    def _wait(self, process: "subprocess.Popen[str]", cancelled: Callable[[], bool]) -> str:
        left_s = self._timeout_s
        while True:
            try:
                output, _ = process.communicate(timeout=_POLL_S)
                return str(output)
            except subprocess.TimeoutExpired:
                left_s -= _POLL_S
            if cancelled():
                process.kill()
                raise RetryLaterError("the self-test was given up for something newer")
            if left_s <= 0:
                process.kill()
                raise GoldenMismatchError(f"the golden vectors took longer than {self._timeout_s:.0f} s")


def _judge(status: int, output: str) -> None:
    if status == 0:
        return
    if status < 0 and -status not in _FROM_OUTSIDE:
        raise GoldenMismatchError(f"the runtime died of {signal.Signals(-status).name} in the self-test")
    tail = output.strip()[-_TAIL_CHARACTERS:]
    if status != BundleError.exit_code:
        raise RetryLaterError(f"the self-test ended with status {status}: {tail}")
    try:
        error = from_json(output.strip().splitlines()[-1], ErrorInfo)
    except (msgspec.DecodeError, IndexError):
        raise RetryLaterError(f"the self-test ended with status {status}: {tail}") from None
    raise _AT_FAULT.get(error.code, BundleError)(error.detail)


def run(check: Check, keys: KeyStore | None = None) -> None:
    """Check one variant of a bundle in this process; `keys` opens what is sealed. Raises a RoadloopError."""
    from roadloop_models.bundle import Bundle
    from roadloop_models.bundle.golden import check_golden, golden_inputs
    from roadloop_models.runners import open_runner

    def open_timed(directory: str) -> _Timed:
        bundle = Bundle.open(Path(directory), check.variant, keys)
        variant = bundle.variant_by_key(check.variant)
        runner = open_runner(bundle, variant, providers=check.providers)
        inputs = golden_inputs(bundle.manifest.golden, tuple(tensor.shape for tensor in variant.inputs))
        return _Timed(bundle, runner, inputs)

    candidate = open_timed(check.directory)
    try:
        check_golden(candidate.bundle, candidate.bundle.variant_by_key(check.variant), candidate.runner)
        if check.incumbent is None:
            return
        try:
            incumbent = open_timed(check.incumbent)
        except RoadloopError as error:
            # What runs was damaged since it started, or is for another runtime: not the fault of what is tested.
            _LOG.warning("%s: the latency is compared with nothing: %s", check.incumbent, error)
            return
        try:
            _compare(candidate, incumbent, check.max_latency_ratio)
        finally:
            incumbent.runner.close()
    finally:
        candidate.runner.close()


class _Timed:
    """A model on its own golden inputs."""

    def __init__(self, bundle: "Bundle", runner: "Runner", inputs: "Sequence[tuple[FloatArray, ...]]") -> None:
        self.bundle = bundle
        self.runner = runner
        self._inputs = inputs
        self._runs = 0

    def round_us(self, runs: int) -> list[float]:
        """Microseconds of so many inferences, on one golden input after the other."""
        times = []
        for _ in range(runs):
            inputs = self._inputs[self._runs % len(self._inputs)]
            self._runs += 1
            begin_ns = time.perf_counter_ns()
            self.runner.run(inputs)
            times.append((time.perf_counter_ns() - begin_ns) / 1e3)
        return times

    def warm_up(self) -> int:
        """Run every golden input once; how many there are."""
        self.round_us(len(self._inputs))
        return len(self._inputs)


def _compare(candidate: _Timed, incumbent: _Timed, max_ratio: float) -> None:
    """Raises LatencyError where the candidate is too slow, ATTEMPTS times after another."""
    for attempt in range(ATTEMPTS):
        times = _times_us(candidate, incumbent)
        if attempt + 1 < ATTEMPTS and is_too_slow(*times, max_ratio):
            continue
        check_latency(*times, max_ratio)
        return


def _times_us(candidate: _Timed, incumbent: _Timed) -> tuple[list[float], list[float]]:
    """Microseconds of both, taking turns, warm."""
    runs = max(1, min(candidate.warm_up(), incumbent.warm_up()))
    until_s = time.monotonic() + TIMING_S
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(max(LEAST_ROUNDS, MOST_RUNS // runs)):
        if number >= LEAST_ROUNDS and time.monotonic() > until_s:
            break
        times[0].extend(candidate.round_us(runs))
        times[1].extend(incumbent.round_us(runs))
    return times


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 sound, 2 the bundle is at fault, 1 anything else."""
    os.nice(_NICE)  # what drives comes first
    try:
        keys = FileKeyStore(Path(arguments[1])) if len(arguments) > 1 else None
        run(from_json(arguments[0], Check), keys)
    except RoadloopError as error:
        sys.stdout.write(msgspec.json.encode(ErrorInfo(code=error.code, detail=str(error)[:500])).decode() + "\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
