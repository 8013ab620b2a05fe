"""What `[slots.X.settings]` of a profile may say, task by task. Light: every process reads the configuration."""

from typing import Annotated

import msgspec

from roadloop_models.drive_state.signals import ODD_ABOVE


class TaskSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the settings of all tasks."""


class NoSettings(TaskSettings, frozen=True, kw_only=True):
    """Of a task that has none."""


class ObjectDetectionSettings(TaskSettings, frozen=True, kw_only=True):
    """Of object-detection."""

    counted: Annotated[tuple[str, ...], msgspec.Meta(max_length=8)] = ()
    """Labels whose objects are counted in telemetry; without any the first eight of the model."""


Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class LineSettings(TaskSettings, frozen=True, kw_only=True, rename={"start": "from", "end": "to"}):
    """A counting line: `from` and `to` are [x, y] as shares of the picture, from its upper left corner."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=40)]
    start: tuple[Share, Share]
    end: tuple[Share, Share]

    def __post_init__(self) -> None:
        """Raises ValueError where the line has no length."""
        if self.start == self.end:
            raise ValueError(f"line '{self.name}' starts where it ends; it has no sides")


class VehicleCountSettings(TaskSettings, frozen=True, kw_only=True):
    """Of vehicle-count."""

    lines: Annotated[tuple[LineSettings, ...], msgspec.Meta(max_length=16)] = ()
    """Without any: one through the middle of the picture, from left to right."""
    classes: tuple[str, ...] = ()
    """Labels of what is counted (`["car", "truck"]`), where the model knows several; without any all."""
    min_score: Share = 0.45
    """A track begins with a detection of at least this score."""
    flow_period_s: Annotated[float, msgspec.Meta(ge=1, le=86_400)] = 60.0
    """How often a `flow` sample is made for each line, on a quiet road too."""

    def __post_init__(self) -> None:
        """Raises ValueError where two lines have one name."""
        names = [line.name for line in self.lines]
        if len(set(names)) != len(names):
            raise ValueError(f"two of the lines {', '.join(names)} have one name")


class DriveStateSettings(TaskSettings, frozen=True, kw_only=True):
    """Of drive-state."""

    period_s: Annotated[float, msgspec.Meta(ge=0.5, le=60)] = 1.0
    """How often a decision is made, in source time."""
    odd_above: Annotated[float, msgspec.Meta(gt=0, le=100)] = ODD_ABOVE
    """A signal of a greater oddness is told as odd; 1 is what one in a hundred sound windows exceeds."""
