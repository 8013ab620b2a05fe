"""What a teacher is worth: how much sooner people are shown what a vehicle got wrong, and how often it is right itself.

The vehicle runs the starter classifier, the teacher is the factory's; images are gtsrb32's test images, which neither
was trained on, in the order in which 'roadloop label export' would ask.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from roadloop_cloud.captures import Decision
from roadloop_cloud.labels.teacher import Voice, form_opinion
from roadloop_cloud.labels.words import TEACHER_ABOVE
from roadloop_models.bundle import Bundle
from roadloop_models.packaged import packaged_bundles
from roadloop_models.tasks.sign_classes import SIGN_LABELS
from roadloop_models.tasks.sign_data import load_test_signs
from tests.bench.figures import Figure, Result, Skipped
from tests.bench.learning.context import Context

TASK = "traffic-sign"
FIRST_SHARE = 0.05
_figure = partial(Figure, command="scripts/bench learning", direction="at least")
Floats = npt.NDArray[np.float64]


def figures(context: Context) -> Iterator[Result]:
    """Shares of the vehicle's mistakes among the first that a person sees, and of right labels by the teacher."""
    if context.data is None:
        yield Skipped("what a teacher is worth", "ROADLOOP_DATA names no data")
        return
    rows = load_test_signs(context.data)
    vehicle, teacher = (shares_of(packaged_bundles(name)[TASK], rows.images) for name in ("starter", "factory"))
    decided, confidence = vehicle.argmax(axis=1), vehicle.max(axis=1)
    wrong = decided != rows.labels
    opinions = [
        form_opinion(shares, SIGN_LABELS, Decision(int(class_id), float(sure)))
        for shares, class_id, sure in zip(teacher, decided, confidence, strict=True)
    ]
    disagreement = np.array([opinion.disagreement or 0.0 for opinion in opinions])
    yield _figure("label_mistakes_first_5pct_by_teacher", 100 * _found(disagreement, wrong), "%")
    yield _figure("label_mistakes_first_5pct_by_own_doubt", 100 * _found(1 - confidence, wrong), "%")
    sure = np.array([opinion.confidence for opinion in opinions]) > TEACHER_ABOVE
    right = np.array([opinion.name for opinion in opinions]) == np.array(SIGN_LABELS)[rows.labels]
    yield _figure("label_teacher_sure", 100 * float(sure.mean()), "%")
    yield _figure("label_teacher_right_where_sure", 100 * float(right[sure].mean()), "%")


def shares_of(directory: Path, images: npt.NDArray[np.uint8]) -> Floats:
    voice = Voice(Bundle.open(directory), SIGN_LABELS, threads=1)
    try:
        return np.stack([voice(image) for image in images])
    finally:
        voice.close()


def _found(doubt: Floats, wrong: npt.NDArray[np.bool_]) -> float:
    """The share of what is wrong among the first that are asked."""
    first = np.argsort(-doubt, kind="stable")[: int(FIRST_SHARE * len(doubt))]
    return float(wrong[first].sum() / max(wrong.sum(), 1))
