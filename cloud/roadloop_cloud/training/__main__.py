"""The training subprocess: `python -m roadloop_cloud.training [--attended] SPEC.json BUNDLE_DIR RESULT.json`.

Progress goes to standard output, one JSON object a line; what libraries print goes to standard error. Exit code 0
where the result file has a result, that of the error where it has one, 130 after Ctrl-C. Attended, it ends at once when
standard input does. Under torchrun several of these train together, and an error that was written down is exit code 0
too: starting anew would not mend it.
"""

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from typing import TextIO

import msgspec

from roadloop_cloud.training.spec import Place, TrainingProgress

INTERRUPTED = 130
_ABANDONED = 3
_ATTENDED = "--attended"


def main(arguments: list[str]) -> int:
    """Run one spec file."""
    if _ATTENDED in arguments:
        Thread(target=end_with_stdin, name="caller", daemon=True).start()
    spec_path, target, result_path = (Path(argument) for argument in arguments if argument != _ATTENDED)
    progress = claim_stdout()
    # A caller in the background hands down an ignored SIGINT, and with it stopping would wait for its time limit.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def report(step: TrainingProgress) -> None:
        progress.write(msgspec.json.encode(step).decode() + "\n")
        progress.flush()

    from roadloop_cloud.training.worker import run_worker

    place = _place(os.environ, target.parent)
    try:
        code = run_worker(spec_path, target, result_path, place, report)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0 if place.meeting else code


def _place(environment: Mapping[str, str], folder: Path) -> Place:
    """Where torchrun started this: which worker it is, and a file to meet the others that no earlier start used."""
    run = environment.get("TORCHELASTIC_RUN_ID")
    if run is None:
        return Place()
    meeting = folder / f"meeting-{run}-{environment['TORCHELASTIC_RESTART_COUNT']}"
    return Place(int(environment["RANK"]), int(environment["WORLD_SIZE"]), str(meeting))


def end_with_stdin() -> None:
    """End this process when its caller is gone: nobody waits for the result, and another start may already work."""
    while os.read(0, 4096):
        pass
    os._exit(_ABANDONED)


def claim_stdout() -> TextIO:
    """Keep the real standard output for progress; converters, in native code too, then print to standard error."""
    progress = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return progress


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
