"""The calling side of training: start the subprocess, hand on its progress, bring back its result. No torch here."""

import os
import secrets
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from roadloop_cloud.files import write_atomic
from roadloop_cloud.training.eta import Eta
from roadloop_cloud.training.executors import EXECUTORS, Launch
from roadloop_cloud.training.spec import DataSource, TrainingOutcome, TrainingProgress, TrainingResult, TrainingSpec
from roadloop_models import errors
from roadloop_models.typed import from_json

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

    In a folder where the same spec was begun before it goes on after the last checkpoint, and where it was finished
    its result is given again: nothing is trained twice. Raises the errors of the catalogue that the subprocess met
    (DataError, BundleError, ...), FailedError where it died, and what the executor raises. An interrupt (Ctrl-C) stops
    it too and leaves no half bundle.
    """
    launch = Launch(
        spec=work_dir / "spec.json",
        target=work_dir / BUNDLE_FOLDER,
        result=work_dir / "result.json",
        workers=spec.workers,
        threads=spec.threads,
        token=secrets.token_hex(8),
    )
    executor = EXECUTORS[spec.executor]
    command = executor.command(launch)
    finished = _prepare(spec, launch)
    if finished is not None:
        return finished
    log_path = work_dir / LOG_FILE
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            # Never written to: it ends when this process does, however it does, and with it the subprocess.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_ALLOCATOR | dict(os.environ) | _threads(spec.threads) | executor.environment(launch),
        )
        try:
            _follow(process, on_progress or (lambda step: None))
            code = process.wait()
        except BaseException:
            _stop(process)
            raise
        finally:
            assert process.stdin is not None
            process.stdin.close()
            _clear_meetings(work_dir)
    return _result(launch.result, log_path, code)


def _prepare(spec: TrainingSpec, launch: Launch) -> TrainingResult | None:
    """Make the folder ready; returns the result where an earlier start of this very run had come to its end."""
    folder, wanted = launch.spec.parent, msgspec.json.encode(spec)
    folder.mkdir(parents=True, exist_ok=True)
    if launch.spec.exists() and launch.spec.read_bytes() == wanted:
        if launch.result.exists():
            outcome = from_json(launch.result.read_bytes(), TrainingOutcome)
            if outcome.result is not None and (spec.score_only or launch.target.is_dir()):
                return outcome.result
        shutil.rmtree(launch.target, ignore_errors=True)  # its result was not written down any more
    launch.result.unlink(missing_ok=True)
    write_atomic(launch.spec, wanted)
    return None


def _clear_meetings(folder: Path) -> None:
    for path in folder.glob("meeting-*"):
        path.unlink(missing_ok=True)


def _threads(count: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(count), "MKL_NUM_THREADS": str(count)}


def _follow(process: subprocess.Popen[bytes], on_progress: OnProgress) -> None:
    assert process.stdout is not None
    eta = Eta()
    for line in iter(lambda: process.stdout.readline(_MAX_LINE_BYTES), b""):  # type: ignore[union-attr]
        on_progress(eta(from_json(line, TrainingProgress)))


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
        outcome = from_json(result_path.read_bytes(), TrainingOutcome)
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
