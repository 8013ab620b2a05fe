"""The task's published protocol on a bundle's quantized files, with the vehicle's own runner. No torch here."""

from pathlib import Path

from roadloop_models.bundle import Bundle, Variant
from roadloop_models.runners import open_runner
from roadloop_models.tasks import Evaluation, Progress, get_task, no_progress


def evaluate_variant(
    bundle: Bundle, variant: Variant, data_dir: Path, progress: Progress = no_progress, threads: int = 1
) -> Evaluation:
    """Evaluate one variant on the test rows below `data_dir`.

    Raises DataError for the data, BundleError for the bundle, RuntimeMissingError for the runtime.
    """
    runner = open_runner(bundle, variant, threads)
    try:
        return get_task(bundle.manifest.task).evaluate(bundle, variant, runner, data_dir, progress)
    finally:
        runner.close()


def evaluate_bundle(bundle: Bundle, data_dir: Path, progress: Progress = no_progress) -> dict[str, Evaluation]:
    """Evaluate every variant: variant key (`onnx-int8`) -> its evaluation."""
    return {variant.key: evaluate_variant(bundle, variant, data_dir, progress) for variant in bundle.manifest.variants}
