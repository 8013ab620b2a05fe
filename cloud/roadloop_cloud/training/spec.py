"""What one training run is asked for and what it answers: the JSON files between caller and subprocess."""

from typing import Annotated, Literal

import msgspec

from roadloop_cloud.training.compress.settings import Compression
from roadloop_models.bundle.manifest import Name, Sha256
from roadloop_models.tasks import Part


class DataSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Training rows: a data folder (it holds `gtsrb32/` and `losloop/`) and which part of its rows."""

    directory: str
    part: Part = "snapshot"


ExecutorName = Literal["local", "torchrun", "ray"]
"""Where a run's processes are started; see training/executors."""
Positive = Annotated[float, msgspec.Meta(gt=0)]


FORMS: dict[str, tuple[str, ...]] = {"traffic-speed": ("speeds-alone",)}
"""Task -> other forms of its model: traffic-speed without the time of day."""


class Fold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which part of the rows is held out for validation: one of `count` of about the same size."""

    index: Annotated[int, msgspec.Meta(ge=0)]
    count: Annotated[int, msgspec.Meta(ge=2, le=20)]


class RecipeChanges(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a run does otherwise than its task's recipe; None: as the recipe has it."""

    peak_rate: Positive | None = None
    weight_decay: Annotated[float, msgspec.Meta(ge=0)] | None = None
    ema_decay: Annotated[float, msgspec.Meta(ge=0, lt=1)] | None = None
    warmup_share: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    held_rate: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    clip_norm: Positive | None = None

    def given(self) -> dict[str, float]:
        """Those that are not None."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}


class TrainingSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One training run."""

    task: str
    version: Name
    data: DataSource
    parent: str | None = None
    """Directory of the bundle whose training weights are the start; None: from nothing."""
    merge: tuple[str, ...] = ()
    """Directories of bundles of which one network is made, whose answer is the mean of theirs; nothing is trained."""
    base: DataSource | None = None
    """Rows trained on beside `data`, so that what the parent knew is not forgotten."""
    replay_share: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    """Share of the batches that are of `base`, and its weight in validation; None: rows of both as they come."""
    seed: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] = 0
    epochs: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    """None: as many as the task's recipe says."""
    recipe: RecipeChanges = RecipeChanges()
    fold: Fold | None = None
    """None: the rows that the task itself holds out."""
    compress: Compression | None = None
    """Make the parent's network smaller instead of training it on; it is then the teacher."""
    qat_above: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """Where int8 loses more than this on the validation rows, in the unit of the task's validation score, training
    goes on quantization-aware. None: it does not."""
    form: str | None = None
    """Another form of the task's model than its usual one, of those in FORMS."""
    fold_scores: tuple[float, ...] = ()
    """What the same recipe reached fold by fold, for manifest and model card."""
    score_only: bool = False
    """End after validation: no refit, no files, no bundle."""
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
    """Of each worker."""
    executor: ExecutorName = "local"
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """Processes that train together, each on batches of its own; the batch is that many times as large."""
    checkpoint_every_s: Annotated[float, msgspec.Meta(ge=0)] = 2.0
    """A checkpoint is written after an epoch, but not more often than this."""


class Place(msgspec.Struct, frozen=True):
    """Which of the workers that train together this process is, and the file over which they find each other."""

    rank: int = 0
    count: int = 1
    meeting: str = ""


class Rounding(msgspec.Struct, frozen=True, kw_only=True):
    """What int8 lost on the validation rows, in the unit of the task's validation score, and what was done about it."""

    lost: float
    """Of the network as it was trained."""
    trained_on: bool
    """Whether it was trained on quantization-aware then."""


class TrainingResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a training run made."""

    bundle: str
    """Its directory; empty where only a score was asked for."""
    metrics: dict[str, float]
    """As in the manifest: validation figures, and test figures by variant where there were test rows."""
    best_epoch: int
    """The epoch that validation chose; 0: the parent's own weights were not improved on."""
    rows: int
    seconds: dict[str, float]
    rounding: Rounding | None = None
    """Where a bound on it was given."""


class TrainingProgress(msgspec.Struct, frozen=True, kw_only=True):
    """One line of progress."""

    stage: str
    """`load`, `train`, `refit`, `quantize`, `check`."""
    done: int
    total: int
    message: str = ""
    resumed: bool = False
    """Whether this is where the run goes on after a kill."""
    eta_s: float | None = None
    """Seconds that the stage still needs, where its pace is known."""


class TrainingOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """The result file: one of the two."""

    result: TrainingResult | None = None
    error_code: str | None = None
    error_message: str | None = None
