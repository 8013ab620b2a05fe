"""Tasks: what a model is for. One module per task; the rest of the code asks for them by name."""

import difflib

from roadloop_models.errors import NotFoundError
from roadloop_models.tasks.base import (
    Disturbable,
    Disturbance,
    Evaluation,
    Part,
    Progress,
    RowKeys,
    Task,
    is_better,
    no_progress,
)
from roadloop_models.tasks.drive_state import DriveState
from roadloop_models.tasks.localization import Localization
from roadloop_models.tasks.object_detection import ObjectDetection
from roadloop_models.tasks.traffic_flow import TrafficFlow
from roadloop_models.tasks.traffic_sign import TrafficSign
from roadloop_models.tasks.traffic_speed import TrafficSpeed
from roadloop_models.tasks.vehicle_count import VehicleCount

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        TrafficSign(),
        TrafficSpeed(),
        TrafficFlow(),
        ObjectDetection(),
        Localization(),
        VehicleCount(),
        DriveState(),
    )
}


def get_task(name: str) -> Task:
    """The task of that name. Raises NotFoundError with the nearest known one."""
    try:
        return TASKS[name]
    except KeyError:
        nearest = difflib.get_close_matches(name, TASKS, n=1) or list(TASKS)
        raise NotFoundError(f"no task '{name}'; did you mean {' or '.join(nearest)}?") from None


__all__ = [
    "TASKS",
    "Disturbable",
    "Disturbance",
    "Evaluation",
    "Part",
    "Progress",
    "RowKeys",
    "Task",
    "get_task",
    "is_better",
    "no_progress",
]
