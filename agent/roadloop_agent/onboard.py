"""The tasks that run on a vehicle: what their frames are, and which module does the work.

Modules are named and not imported: a vehicle loads only those of its own slots, and a process only its own part.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import msgspec

from roadloop_agent.task_settings import DriveStateSettings, NoSettings, ObjectDetectionSettings, VehicleCountSettings
from roadloop_models.drive_state.signals import SIGNALS, SPEED
from roadloop_models.settings import convert_settings

Feed = Literal["image", "speeds", "flow", "signals"]
"""What a source gives: RGB images, steps of road speeds, steps of a detector's counts, or frames of vehicle signals."""


@dataclass(frozen=True)
class OnBoard:
    """One task: `handler`, `infer` and `shadow` are `module:name`."""

    takes: Feed
    handler: str
    infer: str
    shadow: str
    """What deciding otherwise is."""
    settings: type[msgspec.Struct] = NoSettings
    """What `[slots.X.settings]` may say."""
    needs: tuple[str, ...] = ()
    """The VSS paths without which a task of signals cannot do anything."""
    uses: tuple[str, ...] = ()
    """Those that it takes where there are any; its source gives these and the needed ones, and no others."""
    infer_options: tuple[str, ...] = ()
    """Which fields of `InferOptions`, beside the settings, mean something to it."""


_OBD_SPEED = SIGNALS[SPEED].path
_LOCATION = ("Latitude", "Longitude", "Speed", "Heading", "HorizontalAccuracy")
_MOTION = (
    *(f"Vehicle.Chassis.Axle.Row{row}.Wheel.{side}.Speed" for row in (1, 2) for side in ("Left", "Right")),
    _OBD_SPEED,
    "Vehicle.AngularVelocity.Yaw",
    *(f"Vehicle.CurrentLocation.{name}" for name in _LOCATION),
)

ON_BOARD: dict[str, OnBoard] = {
    "drive-state": OnBoard(
        "signals",
        "roadloop_agent.drive.handlers.drive_state:DriveStateHandler",
        "roadloop_agent.infer.drive_state:open_lines",
        "roadloop_agent.drive.shadow.compare.drive_state:COMPARISON",
        DriveStateSettings,
        needs=(_OBD_SPEED,),
        uses=tuple(signal.path for signal in SIGNALS if signal.path != _OBD_SPEED),
        infer_options=("drive",),
    ),
    "localization": OnBoard(
        "signals",
        "roadloop_agent.drive.handlers.localization:LocalizationHandler",
        "roadloop_agent.infer.localization:open_lines",
        "roadloop_agent.drive.shadow.compare.localization:COMPARISON",
        uses=("Vehicle.Speed", *_MOTION),
        infer_options=("outage", "drive", "dbc"),
    ),
    "object-detection": OnBoard(
        "image",
        "roadloop_agent.drive.handlers.object_detection:DetectionHandler",
        "roadloop_agent.infer.detections:open_lines",
        "roadloop_agent.drive.shadow.compare.detection:COMPARISON",
        ObjectDetectionSettings,
        infer_options=("annotate",),
    ),
    "traffic-flow": OnBoard(
        "flow",
        "roadloop_agent.drive.handlers.flow:FlowHandler",
        "roadloop_agent.infer.flow:open_lines",
        "roadloop_agent.drive.shadow.compare.flow:COMPARISON",
    ),
    "traffic-sign": OnBoard(
        "image",
        "roadloop_agent.drive.handlers.sign:SignHandler",
        "roadloop_agent.infer.signs:open_lines",
        "roadloop_agent.drive.shadow.compare.sign:COMPARISON",
    ),
    "traffic-speed": OnBoard(
        "speeds",
        "roadloop_agent.drive.handlers.speed:SpeedHandler",
        "roadloop_agent.infer.speeds:open_lines",
        "roadloop_agent.drive.shadow.compare.speed:COMPARISON",
    ),
    "vehicle-count": OnBoard(
        "image",
        "roadloop_agent.drive.handlers.vehicle_count:CountHandler",
        "roadloop_agent.infer.count:open_lines",
        "roadloop_agent.drive.shadow.compare.count:COMPARISON",
        VehicleCountSettings,
    ),
}


def task_settings(task: str, raw: dict[str, Any], where: str) -> Any:
    """`[slots.X.settings]` as the task's own struct. Raises ConfigError, beginning with `where`, naming the key."""
    return convert_settings(where, raw, ON_BOARD[task].settings)


def load_named(reference: str) -> Any:
    """What `module:name` names; the module is imported now."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)
