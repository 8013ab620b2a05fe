"""Explains a model on test rows, and keeps maps and pictures."""

import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from roadloop_cloud.explain.attribution import Target, attribute
from roadloop_cloud.explain.pictures import Panels, draw_explanations
from roadloop_cloud.explain.rows import Explained, Row, choose
from roadloop_cloud.explain.series import Flows, Obd, Speeds
from roadloop_cloud.explain.signs import Signs
from roadloop_cloud.files import copy_atomic, write_atomic
from roadloop_models.bundle import Bundle, Variant
from roadloop_models.errors import NotFoundError
from roadloop_models.runners import FloatArray, open_runner
from roadloop_models.tasks import Evaluation, get_task

EXPLAINED: dict[str, Explained] = {
    "traffic-sign": Signs(),
    "traffic-speed": Speeds(),
    "traffic-flow": Flows(),
    "drive-state": Obd(),
}
PICTURE, MAPS = "explanation.png", "explanation.npz"
_SCRATCH = ".explaining"
OCCLUSION, GRADIENTS = "occlusion", "integrated gradients"
_SEED = 20261123

Show = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Explanation:
    """What was made of some rows of one model."""

    rows: tuple[Row, ...]
    maps: dict[str, tuple[FloatArray, ...]]
    """Method -> a map of each row."""
    missed: FloatArray
    """Of each row: the part of the answer's change that the gradients' attributions do not add up to."""


class Explain(Protocol):
    """Explains and keeps what was made; `explain` is the real one."""

    def __call__(
        self,
        bundle: Bundle,
        variant: Variant,
        data_dir: Path,
        evaluation: Evaluation,
        folder: Path,
        *,
        count: int,
        step: Show,
    ) -> Explanation:
        """See `explain`."""
        ...


def explain(
    bundle: Bundle, variant: Variant, data_dir: Path, evaluation: Evaluation, folder: Path, *, count: int, step: Show
) -> Explanation:
    """Explain `count` test rows of an evaluated variant; writes explanation.npz and explanation.png into `folder`.

    Each file appears whole, the picture last. Raises NotFoundError for a task without explanations, DataError,
    BundleError, FailedError.
    """
    name = bundle.manifest.task
    if name not in EXPLAINED:
        raise NotFoundError(f"{name}: nothing explains it; there is {', '.join(EXPLAINED)}")
    explained, preprocess = EXPLAINED[name], get_task(name).preprocessor(bundle.manifest)
    runner = open_runner(bundle, variant)

    def infer(item: Any) -> tuple[FloatArray, ...]:
        return runner.run(preprocess(item))

    try:
        rows = explained.rows(bundle, data_dir, choose(evaluation, count, _SEED), infer)
        occluded = []
        for number, row in enumerate(rows):
            step(f"hide parts of {row.title}", number / len(rows))
            occluded.append(explained.occlude(row, infer))
    finally:
        runner.close()
    step("gradients of the training weights", None)
    inputs = [preprocess(row.item) for row in rows]
    targets = [Target(row.output, row.place) for row in rows]
    with _scratch(folder) as scratch:
        attributions, missed = attribute(bundle, data_dir, inputs, targets, scratch)
        gradients = [explained.gather(of_row, row) for of_row, row in zip(attributions, rows, strict=True)]
        found = Explanation(tuple(rows), {OCCLUSION: tuple(occluded), GRADIENTS: tuple(gradients)}, missed)
        picture = scratch / PICTURE
        _draw(found, explained, f"{name} {bundle.manifest.version} ({variant.key}): {explained.unit}", picture)
        write_atomic(folder / MAPS, _encode(found))
        copy_atomic(picture, folder / PICTURE)
    return found


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """An empty folder below `folder`. What one that was killed has left there goes with it."""
    scratch = folder / _SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _encode(found: Explanation) -> bytes:
    arrays = {f"{method}/{row}": one for method, maps in found.maps.items() for row, one in enumerate(maps)}
    arrays |= {"index": np.array([row.index for row in found.rows]), "missed": found.missed}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _draw(found: Explanation, explained: Explained, title: str, picture: Path) -> None:
    panels = [
        Panels(row.title, explained.image(row), {method: maps[place] for method, maps in found.maps.items()})
        for place, row in enumerate(found.rows)
    ]
    draw_explanations(panels, explained.axes, title, picture)
