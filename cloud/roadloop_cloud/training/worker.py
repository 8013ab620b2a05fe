"""One worker of a training run: the same function under every executor. torch is imported when it runs."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec

from roadloop_cloud.files import locked, write_atomic
from roadloop_cloud.training.imports import uncollected
from roadloop_cloud.training.spec import Place, TrainingOutcome, TrainingProgress, TrainingSpec
from roadloop_models.errors import RoadloopError
from roadloop_models.typed import from_json

LOCK = "lock"
DRAFTS = ".build-"


def run_worker(
    spec_path: Path,
    target: Path,
    result_path: Path,
    place: Place,
    report: Callable[[TrainingProgress], None],
) -> int:
    """Train what the spec file asks for. The first of several workers writes the bundle and the result file.

    Returns the exit code that the outcome stands for. An error of the catalogue is an outcome too, and written down;
    others are raised. Waits while another start of the same run is still at it.
    """
    first = place.rank == 0
    outcome: TrainingOutcome | None = None
    code = 0
    with ExitStack() as stack:
        if first:
            # Whoever started the run before may be dead or have lost its lease without the run knowing it yet.
            stack.enter_context(locked(target.parent / LOCK))
            for draft in target.parent.glob(f"{DRAFTS}*"):
                shutil.rmtree(draft, ignore_errors=True)
        try:
            with uncollected():
                from roadloop_cloud.training.build import Trainer
                from roadloop_cloud.training.ranks import join, leave

            spec = from_json(spec_path.read_bytes(), TrainingSpec)
            ranks = join(place)
            stack.callback(leave, ranks)
            result = Trainer(spec, report if first else _unheard, ranks).run(target)
            if result is not None:
                outcome = TrainingOutcome(result=result)
        except RoadloopError as error:
            outcome = TrainingOutcome(error_code=error.code, error_message=str(error))
            code = error.exit_code
        if first and outcome is not None:
            write_atomic(result_path, msgspec.json.encode(outcome))
    return code


def _unheard(step: TrainingProgress) -> None:
    """What the other workers would say is what the first one says."""
