"""The calling side of training: start the subprocess, hand on its progress, bring back its result. No torch here."""

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from roadloop_cloud.training.spec import DataSource, TrainingOutcome, TrainingProgress, TrainingResult, TrainingSpec
from roadloop_models import errors

BUNDLE_FOLDER = "bundle"
LOG_FILE = "training.log"
STOP_TIMEOUT_S = 10.0
_LOG_LINES_SHOWN = 5
_MAX_LINE_BYTES = 64 * 1024
# Training frees and takes buffers of megabytes all the time; by default glibc gives each back to the kernel, which
# then clears its pages anew: half of the time of the LSTM.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "2000000000", "MALLOC_TRIM_THRESHOLD_": "4000000000"}

OnProgress = Callable[[TrainingProgress], None]


def run_training(spec: TrainingSpec, work_dir: Path, on_progress: OnProgress | None = None) -> TrainingResult:
    """Train in a subprocess; the bundle is `work_dir / "bundle"`, what libraries say is in `training.log` beside it.

    Raises the errors of the catalogue that the subprocess met (DataError, BundleError, ...), FailedError where it
    died. An interrupt (Ctrl-C) stops it too and leaves no half bundle.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    spec_path, result_path, log_path = (work_dir / name for name in ("spec.json", "result.json", LOG_FILE))
    spec_path.write_bytes(msgspec.json.encode(spec))
    result_path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "roadloop_cloud.training"]
    command += [str(path) for path in (spec_path, work_dir / BUNDLE_FOLDER, result_path)]
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_ALLOCATOR | dict(os.environ) | _threads(spec.threads),
        )
        try:
            _follow(process, on_progress or (lambda step: None))
            code = process.wait()
        except BaseException:
            _stop(process)
            raise
    return _result(result_path, log_path, code)


def _threads(count: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(count), "MKL_NUM_THREADS": str(count)}


def _follow(process: subprocess.Popen[bytes], on_progress: OnProgress) -> None:
    assert process.stdout is not None
    for line in iter(lambda: process.stdout.readline(_MAX_LINE_BYTES), b""):  # type: ignore[union-attr]
        on_progress(msgspec.json.decode(line, type=TrainingProgress))


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the subprocess as Ctrl-C does, so that it cleans up; by force where it does not."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _result(result_path: Path, log_path: Path, code: int) -> TrainingResult:
    try:
        outcome = msgspec.json.decode(result_path.read_bytes(), type=TrainingOutcome)
    except OSError:
        last = deque(log_path.read_text(errors="replace").splitlines(), maxlen=_LOG_LINES_SHOWN)
        raise errors.FailedError(
            f"training ended with exit code {code} and without a result; {log_path} ends: " + " | ".join(last)
        ) from None
    if outcome.result is not None:
        return outcome.result
    raise _error_class(outcome.error_code)(outcome.error_message or "training failed")


def _error_class(code: str | None) -> type[errors.RoadloopError]:
    waiting: list[type[errors.RoadloopError]] = [errors.RoadloopError]
    while waiting:
        candidate = waiting.pop()
        if candidate.code == code and candidate is not errors.RoadloopError:
            return candidate
        waiting.extend(candidate.__subclasses__())
    return errors.FailedError


__all__ = ["DataSource", "TrainingProgress", "TrainingResult", "TrainingSpec", "run_training"]
