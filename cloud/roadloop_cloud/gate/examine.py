"""The task's protocol on the quantized files of a bundle, run as the vehicle runs them, kept row by row.

What was seen of a variant lies in `<variant key>.npz` of a folder (arrays only, never a pickle): a job that is killed
between the models need not see the first one again.
"""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from roadloop_cloud.files import write_atomic
from roadloop_cloud.gate.calibration import expected_calibration_error
from roadloop_cloud.gate.figures import Examined, Figures, Seen, VariantFigures
from roadloop_models.bundle import Bundle, Variant
from roadloop_models.errors import DataError
from roadloop_models.tasks import Disturbable, Disturbance, Evaluation, Progress, get_task

Show = Callable[[str, float | None], None]
"""Says what is done now, and how much of it (0..1)."""
_ARRAYS = ("losses", "clusters", "confidences", "hits")


class Evaluate(Protocol):
    """Runs the task's protocol on one variant; training/evaluate.py is the real one."""

    def __call__(
        self,
        bundle: Bundle,
        variant: Variant,
        data_dir: Path,
        progress: Progress,
        disturbance: Disturbance | None = None,
    ) -> Evaluation:
        """See evaluate_variant."""
        ...


def examine(
    bundle: Bundle, data_dir: Path, folder: Path, evaluate: Evaluate, progress: Show
) -> dict[str, VariantFigures]:
    """See every int8 variant of a bundle, undisturbed and disturbed, and keep that in `folder`. Repeatable.

    Raises DataError, RuntimeMissingError.
    """
    task = get_task(bundle.manifest.task)
    disturbances = task.disturbances if isinstance(task, Disturbable) else ()
    found = {}
    for variant in bundle.manifest.variants:
        if variant.precision != "int8":
            continue
        text = f"evaluate {bundle.manifest.version} {variant.key}"
        evaluation = evaluate(bundle, variant, data_dir, share(progress, text))
        disturbed = {}
        for one in disturbances:
            progress(f"{text}: {one.name}", None)
            disturbed[one.name] = evaluate(bundle, variant, data_dir, _quiet, one)
        figures = variant_figures(bundle, variant, evaluation, disturbed)
        write_atomic(folder / f"{variant.key}.npz", _encode(evaluation, disturbed))
        found[variant.key] = figures
    return found


def variant_figures(
    bundle: Bundle, variant: Variant, evaluation: Evaluation, disturbed: Mapping[str, Evaluation]
) -> VariantFigures:
    """What is told of one variant."""
    entry = bundle.manifest.file_entry(variant.file)
    metric = get_task(bundle.manifest.task).metric
    sure, hits = evaluation.confidences, evaluation.hits
    return VariantFigures(
        file_sha256=entry.sha256,
        rows=evaluation.rows,
        metrics=evaluation.metrics,
        size_bytes=entry.size_bytes,
        ece=None if sure is None or hits is None or not len(hits) else expected_calibration_error(sure, hits),
        disturbed={name: found.metrics[metric] for name, found in disturbed.items()},
    )


def read_examined(figures: Figures, folder: Path) -> Examined:
    """What `examine` returned and kept. Raises DataError where a file is gone or damaged."""
    return {key: _seen(figure, folder / f"{key}.npz") for key, figure in figures.items()}


def _seen(figures: VariantFigures, path: Path) -> Seen:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not what an evaluation left: {error}; evaluate again") from error
    evaluation = _decode(arrays, "", figures.metrics)
    disturbed = {name: _decode(arrays, f"disturbed/{name}/", {}) for name in figures.disturbed}
    return Seen(figures, evaluation, disturbed)


def _encode(evaluation: Evaluation, disturbed: Mapping[str, Evaluation]) -> bytes:
    arrays = _arrays(evaluation, "")
    for name, found in disturbed.items():
        arrays |= _arrays(found, f"disturbed/{name}/")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _arrays(evaluation: Evaluation, prefix: str) -> dict[str, Any]:
    arrays: dict[str, Any] = {
        f"{prefix}shape": np.array([evaluation.rows, evaluation.root, evaluation.rows_per_independent])
    }
    arrays |= {
        f"{prefix}{name}": getattr(evaluation, name) for name in _ARRAYS if getattr(evaluation, name) is not None
    }
    return arrays | {f"{prefix}slices/{kind}": labels for kind, labels in evaluation.slices.items()}


def _decode(arrays: Mapping[str, npt.NDArray[Any]], prefix: str, metrics: dict[str, float]) -> Evaluation:
    rows, root, rows_per_independent = arrays[f"{prefix}shape"].tolist()
    kinds = f"{prefix}slices/"
    return Evaluation(
        metrics,
        int(rows),
        root=bool(root),
        rows_per_independent=rows_per_independent,
        slices={name.removeprefix(kinds): array for name, array in arrays.items() if name.startswith(kinds)},
        **{name: arrays.get(f"{prefix}{name}") for name in _ARRAYS},
    )


def share(progress: Show, text: str) -> Progress:
    """Progress of one step, as the protocols of tasks tell it."""
    return lambda done, total: progress(text, done / total if total else None)


def _quiet(done: int, total: int) -> None:
    """Nobody waits for each row of a disturbance."""
