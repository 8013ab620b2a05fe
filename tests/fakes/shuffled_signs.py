"""Candidates of real training: signs that the starter has not seen, as they are or with one class called anything."""

from pathlib import Path

import numpy as np

from roadloop_cloud.training.run import run_training
from roadloop_cloud.training.spec import DataSource, TrainingSpec
from roadloop_models.bundle import Bundle
from roadloop_models.packaged import packaged_bundles
from roadloop_models.tasks.sign_classes import SIGN_LABELS
from roadloop_models.tasks.sign_data import FOLDER, TRAIN_FILE, SignRows, load_training_signs, write_signs

TASK = "traffic-sign"
SHUFFLED = SIGN_LABELS.index("stop")
_SEED = 7


def starter() -> Path:
    """The bundle that knows an eighth of the tracks."""
    return packaged_bundles()[TASK].parent / "starter" / TASK


def unseen_half(data: Path) -> SignRows:
    """Half of the tracks that the starter has not seen."""
    rest = load_training_signs(data, "rest")
    return rest.take(rest.tracks % 2 == 0)


def shuffled(rows: SignRows) -> SignRows:
    """The same with every stop sign called something else."""
    generator = np.random.Generator(np.random.PCG64(_SEED))
    labels, stops = rows.labels.copy(), rows.labels == SHUFFLED
    others = generator.integers(1, len(SIGN_LABELS), size=int(stops.sum()))
    labels[stops] = (SHUFFLED + others) % len(SIGN_LABELS)
    return SignRows(rows.images, labels, rows.tracks)


def trained_on(data: Path, folder: Path, version: str, rows: SignRows) -> Bundle:
    """The starter, trained on with these rows beside its own."""
    write_signs(folder / "rows" / FOLDER / TRAIN_FILE, rows)
    spec = TrainingSpec(
        task=TASK,
        version=version,
        data=DataSource(str(folder / "rows")),
        parent=str(starter()),
        base=DataSource(str(data), "starter"),
        data_name="published",
    )
    return Bundle.open(Path(run_training(spec, folder / "work").bundle))
