"""Snapshots and labels over a database, with what else they read passed in."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import pyarrow as pa

from roadloop_cloud.captures import Captures
from roadloop_cloud.datasets.service import Datasets
from roadloop_cloud.datasets.snapshot import Snapshots
from roadloop_cloud.labels.labelling import Labelling
from roadloop_cloud.labels.service import Labels
from roadloop_cloud.store.database import Database
from roadloop_models.bundle import Bundle
from roadloop_models.tasks.sign_classes import SIGN_LABELS


def make_datasets(
    database: Database,
    snapshots: Snapshots,
    read_stream: Callable[[str], pa.Table],
    blob_path: Callable[[str], Path],
    incumbent: Callable[[str], Bundle],
    *,
    quarantined: Collection[str] = (),
    hardware: Callable[[], Mapping[str, str]] = dict,
) -> Datasets:
    """As app/ builds them."""
    captures, labels = Captures(database, blob_path, read_stream), Labels(database)
    labelling = Labelling(labels, captures, lambda _: SIGN_LABELS, lambda: quarantined)
    return Datasets(snapshots, read_stream, captures, labels, labelling, incumbent, lambda: quarantined, hardware)
