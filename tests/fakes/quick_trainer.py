"""Training's subprocess in half a second: `python -m tests.fakes.quick_trainer SPEC.json BUNDLE_DIR RESULT.json`.

It goes through the real one's stages and writes a tiny bundle. A file `die-at` beside its folder names the stage at
which it kills itself, once; `trainings` there has a line for each run that came to its end.
"""

import os
import signal
import sys
from pathlib import Path

import msgspec

from roadloop_cloud.files import write_atomic
from roadloop_cloud.training.executors import Launch
from roadloop_cloud.training.spec import Rounding, TrainingOutcome, TrainingProgress, TrainingResult, TrainingSpec
from roadloop_models.bundle import Lineage
from tests.fakes.bundles import tiny_bundle

LOST, ROUNDED_SEED = 0.02, 3
"""What int8 loses on validation rows, and the seed of the bundle that was trained on aware of it."""
STAGES = ("load", "train", "quantize", "check")


class QuickExecutor:
    """Starts this module where LocalExecutor starts training."""

    def command(self, launch: Launch) -> list[str]:
        """See Executor."""
        return [sys.executable, "-m", "tests.fakes.quick_trainer", *launch.files]

    def environment(self, launch: Launch) -> dict[str, str]:
        """See Executor."""
        return {}


def main(arguments: list[str]) -> int:
    """One run."""
    spec_path, target, result_path = (Path(argument) for argument in arguments)
    spec = msgspec.json.decode(spec_path.read_bytes(), type=TrainingSpec)
    around = target.parent.parent
    for stage in STAGES:
        line = msgspec.json.encode(TrainingProgress(stage=stage, done=0, total=1)).decode()
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
        fatal = around / "die-at"
        if fatal.exists() and fatal.read_text() == stage:
            fatal.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
    staging = target.with_name(".making")
    lineage = Lineage(spec.snapshot_sha256, "v1", "train", spec.data_name)
    rounding = None if spec.qat_above is None else Rounding(lost=LOST, trained_on=spec.qat_above < LOST)
    seed = ROUNDED_SEED if rounding is not None and rounding.trained_on else 2
    tiny_bundle(staging, spec.version, seed=seed, lineage=lineage)
    staging.rename(target)
    result = TrainingResult(bundle=str(target), metrics={}, best_epoch=1, rows=2, seconds={}, rounding=rounding)
    write_atomic(result_path, msgspec.json.encode(TrainingOutcome(result=result)))
    with (around / "trainings").open("a") as log:
        log.write(f"{spec.version}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
