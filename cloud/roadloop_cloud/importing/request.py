"""What a person asks an import for."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roadloop_cloud.importing.choices import Choices
from roadloop_cloud.importing.layouts import Hints
from roadloop_models.bundle.manifest import Runtime
from roadloop_models.tasks.sign_classes import SIGN_LABELS

DETECTOR_TASKS = ("object-detection", "vehicle-count")
CLASSIFIER_TASKS = {"traffic-sign": SIGN_LABELS}
"""Tasks whose classes are fixed: what is told to others is the number of the class."""
TASKS = (*DETECTOR_TASKS, *CLASSIFIER_TASKS)


@dataclass(frozen=True, kw_only=True)
class ImportRequest:
    """See the module."""

    path: Path
    runtime: Runtime
    task: str
    version: str
    labels: Path | None = None
    size: tuple[int, int] | None = None
    """Height and width, where the file leaves them open."""
    verbatim: bool = False
    """Whether the file goes into the bundle byte for byte, or else is refused."""
    choices: Choices = field(default_factory=Choices)
    hints: Hints = field(default_factory=Hints)
    calibrate: Path | None = None
    source: str | None = None
    licence: Path | None = None
    licence_name: str | None = None

    @property
    def command(self) -> str:
        """How it was asked for, without the folders of this machine."""
        words = [f"roadloop models import --{self.runtime} {self.path.name} --task {self.task}"]
        if self.labels is not None:
            words.append(f"--labels {self.labels.name}")
        for name, value in {**_said(self.choices), **_said(self.hints)}.items():
            text = ",".join(f"{part:g}" for part in value) if isinstance(value, tuple) else str(value)
            words.append(f"--{'boxes' if name == 'unit' else name.replace('_', '-')} {text}")
        if self.size is not None:
            words.append(f"--size {self.size[0]}x{self.size[1]}")
        if self.verbatim:
            words.append("--verbatim")
        if self.calibrate is not None:
            words.append(f"--calibrate {self.calibrate.name}")
        return " ".join([*words, f"--version {self.version}"])


def _said(options: Choices | Hints) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if value is not None}
