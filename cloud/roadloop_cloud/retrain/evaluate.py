"""What the task's protocol finds for the quantized files of a bundle, run as the vehicle runs them."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from roadloop_cloud.retrain.gate import VariantFigures
from roadloop_models.bundle import Bundle, Variant
from roadloop_models.bundle.golden import check_golden
from roadloop_models.runners import open_runner
from roadloop_models.tasks import Evaluation, Progress

Show = Callable[[str, float | None], None]
"""Says what is done now, and how much of it (0..1)."""


class Evaluate(Protocol):
    """Runs the task's protocol on one variant; training/evaluate.py is the real one."""

    def __call__(self, bundle: Bundle, variant: Variant, data_dir: Path, progress: Progress) -> Evaluation:
        """See evaluate_variant."""
        ...


def evaluate_int8(bundle: Bundle, data_dir: Path, evaluate: Evaluate, progress: Show) -> dict[str, VariantFigures]:
    """The task's protocol on every int8 variant of a bundle, by variant key."""
    return {
        variant.key: variant_figures(bundle, variant, data_dir, evaluate, progress)
        for variant in bundle.manifest.variants
        if variant.precision == "int8"
    }


def variant_figures(
    bundle: Bundle,
    variant: Variant,
    data_dir: Path,
    evaluate: Evaluate,
    progress: Show,
) -> VariantFigures:
    """The task's protocol on one variant. Raises DataError, RuntimeMissingError."""
    text = f"evaluate {bundle.manifest.version} {variant.key}"
    found = evaluate(bundle, variant, data_dir, lambda done, total: progress(text, done / total if total else None))
    entry = bundle.manifest.file_entry(variant.file)
    return VariantFigures(file_sha256=entry.sha256, rows=found.rows, metrics=found.metrics)


def self_test(bundle: Bundle) -> None:
    """Run the golden vectors of every variant. Raises GoldenMismatchError, BundleError."""
    for variant in bundle.manifest.variants:
        runner = open_runner(bundle, variant)
        try:
            check_golden(bundle, variant, runner)
        finally:
            runner.close()
