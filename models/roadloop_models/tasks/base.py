"""What a task is: the part of a model's life that depends on what it is for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from roadloop_models.bundle import Bundle, Manifest, Variant
from roadloop_models.runners import FloatArray, Runner

_DISTURBANCE_SEED = 20261123

Part = Literal["all", "starter", "rest", "snapshot"]
"""Which training rows of a data folder: `all` of the published training split; the `starter` part of it, which the
starter release was trained on; the `rest` of it; or a `snapshot`, a folder without test rows: every row it has."""

Progress = Callable[[int, int], None]
"""Called with (done, total) items."""


def no_progress(done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Evaluation:
    """What the task's published protocol found for one variant: figures by name, over that many test rows.

    Beside the figures, what two models are compared by row by row. Where `losses` is None the task has no such rows.
    All arrays but `confidences` and `hits` have the length of `losses`, in an order that depends on the data alone.
    """

    metrics: dict[str, float]
    rows: int
    losses: FloatArray | None = None
    """float32 [n], lower is better. Their mean (its root with `root`), or 1 minus it, is the task's `metric`."""
    root: bool = False
    clusters: npt.NDArray[np.int64] | None = None
    """int64 [n]: rows of one track, drive or stretch of time are not independent; None: nothing is known of that."""
    rows_per_independent: float = 1.0
    """So many rows (clusters, where there are any) tell as much as one independent one would."""
    slices: Mapping[str, npt.NDArray[np.str_]] = field(default_factory=dict)
    """What is looked at apart (`class`, `light`) -> the label of each row."""
    confidences: FloatArray | None = None
    """float32 [m], 0 to 1: how sure the model was of each of its m decisions."""
    hits: npt.NDArray[np.bool_] | None = None
    """Whether each of these decisions was right."""


@dataclass(frozen=True)
class Disturbance:
    """A way in which what a sensor gives gets worse: `change` takes an item and makes the worse one, before any
    preprocessing."""

    name: str
    change: Callable[[Any, np.random.Generator], Any]

    def __call__(self, item: Any, row: int) -> Any:
        """The item of that row, changed: the same each time."""
        return self.change(item, np.random.Generator(np.random.PCG64([_DISTURBANCE_SEED, row])))


@runtime_checkable
class Disturbable(Protocol):
    """A task that can be evaluated on worse items."""

    @property
    def disturbances(self) -> tuple[Disturbance, ...]:
        """Those that its models are expected to bear."""

    def evaluate_disturbed(
        self, bundle: Bundle, variant: Variant, runner: Runner, data_dir: Path, disturbance: Disturbance
    ) -> Evaluation:
        """As `evaluate`, on disturbed items, perhaps on fewer of them."""


@runtime_checkable
class RowKeys(Protocol):
    """A task that can tell whether a row that was trained on is tested on too."""

    def row_keys(self, data_dir: Path, part: "Part | Literal['test']") -> frozenset[bytes]:
        """What tells the rows of a part of a data folder apart. Raises DataError naming file and field."""


class Task(Protocol):
    """One task. `data_dir` is always the folder that holds `gtsrb32/` and `losloop/`."""

    @property
    def name(self) -> str:
        """`traffic-sign`, for example: what manifests and slots call it."""

    @property
    def metric(self) -> str:
        """The figure of an `Evaluation` by which an incumbent and a candidate are compared."""

    @property
    def higher_is_better(self) -> bool:
        """Which way `metric` improves."""

    def preprocessor(self, manifest: Manifest) -> Callable[[Any], tuple[FloatArray, ...]]:
        """From one item (an image; a window of speeds) to the input tensors of `Runner.run`."""

    def postprocessor(self, bundle: Bundle) -> Callable[..., Any]:
        """From the output tensors of `Runner.run` to what the vehicle acts on (a `SignClass`; a forecast).

        Detectors are told the height and width of the image too. Raises BundleError where the outputs do not fit.
        """

    def evaluate(
        self, bundle: Bundle, variant: Variant, runner: Runner, data_dir: Path, progress: Progress = no_progress
    ) -> Evaluation:
        """Run the published protocol on the test rows. Raises DataError naming file and field."""

    def write_part(self, data_dir: Path, part: Part, directory: Path) -> int:
        """Write one part of the training rows as a snapshot below `directory`; returns the number of rows."""

    def write_made_data(self, directory: Path, seed: int) -> None:
        """Write seeded made data in the layout of the real data set, smaller, with training and test rows."""


def is_better(task: Task, candidate: float, incumbent: float, margin: float = 0.0) -> bool:
    """Whether a candidate's figure beats the incumbent's by more than `margin` (in the metric's own unit)."""
    gain = candidate - incumbent if task.higher_is_better else incumbent - candidate
    return gain > margin
