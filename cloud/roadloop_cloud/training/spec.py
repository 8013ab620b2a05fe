"""What one training run is asked for and what it answers: the JSON files between caller and subprocess."""

from typing import Annotated

import msgspec

from roadloop_models.bundle.manifest import Name, Sha256
from roadloop_models.tasks import Part


class DataSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Training rows: a data folder (it holds `gtsrb32/` and `losloop/`) and which part of its rows."""

    directory: str
    part: Part = "snapshot"


class TrainingSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One training run."""

    task: str
    version: Name
    data: DataSource
    parent: str | None = None
    """Directory of the bundle whose training weights are the start; None: from nothing."""
    base: DataSource | None = None
    """Rows trained on beside `data`, so that what the parent knew is not forgotten."""
    seed: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] = 0
    epochs: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    """None: as many as the task's recipe says."""
    refit: bool | None = None
    """Whether to train again on all rows, validation rows too, for the number of epochs that validation chose."""
    with_fp32: bool = False
    """Whether the bundle also gets an fp32 ONNX file, to compare the int8 files with."""
    test_data: str | None = None
    """A data folder whose test rows the finished files are evaluated on, for manifest and model card. Nothing is
    chosen by them."""
    command: str | None = None
    data_name: str | None = None
    """How manifest and model card call the data."""
    snapshot_sha256: Sha256 | None = None
    threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1


class TrainingResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a training run made."""

    bundle: str
    metrics: dict[str, float]
    """As in the manifest: validation figures, and test figures by variant where there were test rows."""
    best_epoch: int
    """The epoch that validation chose; 0: the parent's own weights were not improved on."""
    rows: int
    seconds: dict[str, float]


class TrainingProgress(msgspec.Struct, frozen=True, kw_only=True):
    """One line of progress."""

    stage: str
    """`load`, `train`, `refit`, `quantize`, `check`."""
    done: int
    total: int
    message: str = ""


class TrainingOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """The result file: one of the two."""

    result: TrainingResult | None = None
    error_code: str | None = None
    error_message: str | None = None
