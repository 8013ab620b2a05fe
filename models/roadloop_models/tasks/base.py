"""What a task is: the part of a model's life that depends on what it is for."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from roadloop_models.bundle import Bundle, Manifest, Variant
from roadloop_models.runners import FloatArray, Runner

Part = Literal["all", "starter", "rest", "snapshot"]
"""Which training rows of a data folder: `all` of the published training split; the `starter` part of it, which the
starter release was trained on; the `rest` of it; or a `snapshot`, a folder without test rows: every row it has."""

Progress = Callable[[int, int], None]
"""Called with (done, total) items."""


def no_progress(done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Evaluation:
    """What the task's published protocol found for one variant: figures by name, over that many test rows."""

    metrics: dict[str, float]
    rows: int


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
