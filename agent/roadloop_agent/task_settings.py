"""What `[slots.X.settings]` of a profile may say, task by task. Light: every process reads the configuration."""

from typing import Annotated

import msgspec


class TaskSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the settings of all tasks."""


class NoSettings(TaskSettings, frozen=True, kw_only=True):
    """Of a task that has none."""


class ObjectDetectionSettings(TaskSettings, frozen=True, kw_only=True):
    """Of object-detection."""

    counted: Annotated[tuple[str, ...], msgspec.Meta(max_length=8)] = ()
    """Labels whose objects are counted in telemetry; without any the first eight of the model."""
