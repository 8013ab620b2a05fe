"""The training subprocess: `python -m roadloop_cloud.training SPEC.json BUNDLE_DIR RESULT.json`.

Progress goes to standard output, one JSON object a line; what libraries print goes to standard error. Exit code 0
where the result file has a result, that of the error where it has one, 130 after Ctrl-C.
"""

import os
import signal
import sys
from pathlib import Path
from typing import TextIO

import msgspec

from roadloop_cloud.training.spec import TrainingOutcome, TrainingProgress, TrainingSpec
from roadloop_models.errors import RoadloopError

_INTERRUPTED = 130


def main(arguments: list[str]) -> int:
    """Run one spec file."""
    spec_path, target, result_path = (Path(argument) for argument in arguments)
    progress = _claim_stdout()
    # A caller in the background hands down an ignored SIGINT, and with it stopping would wait for its time limit.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def report(step: TrainingProgress) -> None:
        progress.write(msgspec.json.encode(step).decode() + "\n")
        progress.flush()

    try:
        from roadloop_cloud.training.build import Trainer

        spec = msgspec.json.decode(spec_path.read_bytes(), type=TrainingSpec)
        outcome, code = TrainingOutcome(result=Trainer(spec, report).run(target)), 0
    except RoadloopError as error:
        outcome, code = TrainingOutcome(error_code=error.code, error_message=str(error)), error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    result_path.write_bytes(msgspec.json.encode(outcome))
    return code


def _claim_stdout() -> TextIO:
    """Keep the real standard output for progress; converters, in native code too, then print to standard error."""
    progress = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return progress


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
