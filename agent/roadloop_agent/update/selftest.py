"""The golden vectors of a bundle, run in a process of their own: a runtime that dies takes nothing with it.

`python -m roadloop_agent.update.selftest BUNDLE_DIR VARIANT` exits 0 where the bundle computes here what it computed
when it was built, and else prints why: one line of JSON, `{"code": …, "detail": …}`.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from roadloop_models.contract.messages import ErrorInfo
from roadloop_models.errors import BundleError, GoldenMismatchError, RetryLaterError, RoadloopError

TIMEOUT_S = 120.0
_POLL_S = 0.2
_NICE = 10
_TAIL_CHARACTERS = 300
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

SelfTest = Callable[[Path, str, Callable[[], bool]], None]
"""(bundle directory, variant key, cancelled): raises where the bundle must not run here."""


class SubprocessSelfTest:
    """See the module. `command` is put before the directory and the variant."""

    def __init__(self, command: Sequence[str] | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._command = tuple(command or (sys.executable, "-m", "roadloop_agent.update.selftest"))
        self._timeout_s = timeout_s

    def __call__(self, directory: Path, variant: str, cancelled: Callable[[], bool]) -> None:
        """Run it. Raises GoldenMismatchError or BundleError where the bundle is at fault, else RetryLaterError."""
        try:
            process = subprocess.Popen(
                [*self._command, str(directory), variant],
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
        error = msgspec.json.decode(output.strip().splitlines()[-1], type=ErrorInfo)
    except (msgspec.DecodeError, IndexError):
        raise RetryLaterError(f"the self-test ended with status {status}: {tail}") from None
    raise (GoldenMismatchError if error.code == GoldenMismatchError.code else BundleError)(error.detail)


def run(directory: Path, variant_key: str) -> None:
    """Check one variant of a bundle in this process. Raises a RoadloopError."""
    from roadloop_models.bundle import Bundle
    from roadloop_models.bundle.golden import check_golden
    from roadloop_models.runners import open_runner

    bundle = Bundle.open(directory, variant_key)
    variant = bundle.variant_by_key(variant_key)
    runner = open_runner(bundle, variant)
    try:
        check_golden(bundle, variant, runner)
    finally:
        runner.close()


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 sound, 2 the bundle is at fault, 1 anything else."""
    os.nice(_NICE)  # what drives comes first
    try:
        run(Path(arguments[0]), arguments[1])
    except RoadloopError as error:
        sys.stdout.write(msgspec.json.encode(ErrorInfo(code=error.code, detail=str(error)[:500])).decode() + "\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
