"""What a task does on board: one handler per slot, which turns frames into decisions and telemetry."""

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from roadloop_agent.config import SlotTable
from roadloop_agent.drive.frames import Frame
from roadloop_agent.drive.pipeline import Model
from roadloop_agent.drive.shadow.wire import Seen
from roadloop_agent.onboard import ON_BOARD, load_named
from roadloop_models.contract.streams import Stream

Rows = list[tuple[Stream, list[float]]]
MakeRows = Callable[[], Rows]


class Outcome(msgspec.Struct, gc=False):
    """What followed from one frame. A plain struct: it is made for every frame."""

    rows: Rows = []
    """Telemetry samples, in order."""
    later: MakeRows | None = None
    """More samples, which take arithmetic: made by another thread a moment later. It may raise as `handle` may."""
    decided: bool = False
    """Whether the model decided anything: without one, or while a window fills, it did not."""
    latency_us: float = 0.0
    """From the frame to the decision."""
    confidence: float | None = None
    """0 to 1, for the health window of a release; None where the task has none."""
    capture: bool = False
    """Send the frame itself too, about the last of the rows."""
    decision: Callable[[], dict[str, Any]] | None = None
    """What other software on the vehicle is told, as a JSON-able dict; called only where somebody listens."""
    signals: Callable[[], list[float]] | None = None
    """What drift is watched by (sketches/signals.py): made by another thread, in the order of the decisions."""
    seen: Seen | None = None
    """What the model was given, for a candidate in the shadow to be given too; nothing writes to it any more."""


class Around(Protocol):
    """What a handler may ask of its slot."""

    @property
    def frames(self) -> int:
        """Frames taken so far, with this one."""

    @property
    def dropped(self) -> int:
        """Frames that the source dropped so far because the slot was busy."""

    def may_capture(self) -> bool:
        """Whether the byte budget has room for another captured frame."""


class Handler(Protocol):
    """One slot's task. Its state (a tracker, a filter, a window) outlives the model, which may change between frames.

    Only the slot's own thread calls it.
    """

    def handle(self, frame: Frame, model: Model | None, around: Around) -> Outcome:
        """Decide about one frame; `model` is None where nothing could be loaded.

        Raises RoadloopError where this frame cannot be decided: it is counted as an error, the next one is tried.
        """
        ...


def open_handler(table: SlotTable) -> Handler:
    """The handler of a slot, from its table."""
    handler: Handler = load_named(ON_BOARD[table.task].handler)(table)
    return handler
