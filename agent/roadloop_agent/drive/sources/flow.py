"""Counts of a road detector, one 5-minute step at a time, with the window before it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from roadloop_agent.config import selected
from roadloop_agent.drive.frames import Item
from roadloop_models.errors import DataError
from roadloop_models.preprocess import FlowWindow
from roadloop_models.tasks.flow_data import WINDOW, FlowRows, read_flow
from roadloop_models.tasks.made_flow import made_flow


@dataclass(frozen=True)
class FlowStep:
    """What was counted in one step, in vehicles; and the window up to it, where it is unbroken."""

    step: int
    flow_veh: float
    window: FlowWindow | None


class FlowCsv:
    """Rows of a CSV in the layout of PeMS. The number of a frame is its absolute step."""

    def __init__(self, path: Path, first_row: int = 0, last_row: int | None = None, select: str | None = None) -> None:
        """Raises DataError naming the file."""
        self.path = path
        rows = read_flow(path)
        stop = len(rows) if last_row is None else min(last_row + 1, len(rows))
        first = min(first_row, stop)
        part, of = selected(select)
        self.rows = rows.span(first + (stop - first) * part // of, first + (stop - first) * (part + 1) // of)
        if not len(self.rows):
            raise DataError(f"{path}: none of its {len(rows)} rows is selected")

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Item]:
        return _items(self.path.name, self.rows)


def made(days: int, seed: int) -> Iterator[Item]:
    """Made counts with rush hours, the same for the same seed."""
    return _items("made", made_flow(days, seed))


def _items(name: str, rows: FlowRows) -> Iterator[Item]:
    for row, step in enumerate(rows.steps.tolist()):
        first = row - WINDOW + 1
        window = None
        if first >= 0 and rows.steps[first] == step - WINDOW + 1:
            window = FlowWindow(rows.flow_veh[first : row + 1], step + 1)
        yield Item(step, f"{name}#{step}", FlowStep(step, float(rows.flow_veh[row]), window))
