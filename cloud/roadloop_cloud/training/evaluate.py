"""The task's published protocol on a bundle's quantized files, with the vehicle's own runner. No torch here."""

from pathlib import Path

from roadloop_models.bundle import Bundle, Variant
from roadloop_models.errors import NotFoundError
from roadloop_models.runners import open_runner
from roadloop_models.tasks import Disturbable, Disturbance, Evaluation, Progress, get_task, no_progress


def evaluate_variant(
    bundle: Bundle,
    variant: Variant,
    data_dir: Path,
    progress: Progress = no_progress,
    disturbance: Disturbance | None = None,
) -> Evaluation:
    """Evaluate one variant on the test rows below `data_dir`, made worse by `disturbance` where there is one.

    Raises DataError for the data, BundleError for the bundle, RuntimeMissingError for the runtime, NotFoundError where
    the task knows no disturbances.
    """
    task = get_task(bundle.manifest.task)
    runner = open_runner(bundle, variant)
    try:
        if disturbance is None:
            return task.evaluate(bundle, variant, runner, data_dir, progress)
        if not isinstance(task, Disturbable):
            raise NotFoundError(f"{task.name} knows no disturbance '{disturbance.name}'")
        return task.evaluate_disturbed(bundle, variant, runner, data_dir, disturbance)
    finally:
        runner.close()


def evaluate_bundle(bundle: Bundle, data_dir: Path, progress: Progress = no_progress) -> dict[str, Evaluation]:
    """Evaluate every variant: variant key (`onnx-int8`) -> its evaluation."""
    return {variant.key: evaluate_variant(bundle, variant, data_dir, progress) for variant in bundle.manifest.variants}
