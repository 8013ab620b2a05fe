"""What a person sees of the demo: the steps with their times, the fleet, the ledger, and what happened last."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

EVENTS_SHOWN = 9


@dataclass
class Step:
    """One step of the demo."""

    title: str
    started_s: float
    seconds: float | None = None


@dataclass(frozen=True)
class VehicleLine:
    """One row of the fleet table."""

    vehicle: str
    hardware: str
    online: bool
    slots: tuple[str, ...]
    stored_samples: int


@dataclass
class FleetView:
    """What the demo's watcher last saw of the fleet."""

    vehicles: Sequence[VehicleLine] = ()
    totals: str = ""
    rollout: str = ""
    job: str = ""


@dataclass
class Screen:
    """Live on a terminal; plain lines where the output is a file or a pipe."""

    title: str
    console: Console = field(default_factory=Console)
    steps: list[Step] = field(default_factory=list)
    events: deque[str] = field(default_factory=lambda: deque(maxlen=EVENTS_SHOWN))
    view: FleetView = field(default_factory=FleetView)
    _started_s: float = field(default_factory=time.monotonic)
    _live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show until the end of the block."""
        self._plain(f"[bold]{self.title}[/bold]")
        if not self.console.is_terminal:
            yield
            return
        with Live(self, console=self.console, refresh_per_second=4, transient=False) as self._live:
            yield

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Time one step; where it fails, the time stands as it was."""
        step = Step(title, time.monotonic())
        self.steps.append(step)
        self._plain(f"[bold cyan]▶[/bold cyan] {title}")
        try:
            yield
        finally:
            step.seconds = round(time.monotonic() - step.started_s, 1)
        self._plain(f"[green]✔[/green] {title} [dim]{step.seconds} s[/dim]")

    def event(self, text: str) -> None:
        """Something happened that a person should see."""
        elapsed_s = int(time.monotonic() - self._started_s)
        line = f"[dim]{elapsed_s // 60}:{elapsed_s % 60:02d}[/dim] {text}"
        self.events.append(line)
        self._plain(f"  {line}")

    def seconds(self) -> dict[str, float]:
        """How long each finished step took."""
        return {step.title: step.seconds for step in self.steps if step.seconds is not None}

    def _plain(self, line: str) -> None:
        if not self.console.is_terminal:
            self.console.print(line)

    def __rich__(self) -> Group:
        elapsed_s = int(time.monotonic() - self._started_s)
        top = Table.grid(padding=(0, 3))
        top.add_row(self._step_table(), self._fleet_table())
        lines = [line for line in (self.view.totals, self.view.rollout, self.view.job) if line]
        return Group(
            Text.from_markup(f"[bold]{self.title}[/bold]  [dim]{elapsed_s // 60}:{elapsed_s % 60:02d}[/dim]"),
            top,
            Text.from_markup("\n".join(lines)),
            Panel(Text.from_markup("\n".join(self.events)), title="what happens", height=EVENTS_SHOWN + 2),
        )

    def _step_table(self) -> Table:
        table = Table.grid(padding=(0, 1))
        for step in self.steps:
            running = step.seconds is None
            seconds = time.monotonic() - step.started_s if step.seconds is None else step.seconds
            table.add_row(
                "[cyan]▶[/cyan]" if running else "[green]✔[/green]", step.title, f"[dim]{seconds:.0f} s[/dim]"
            )
        return table

    def _fleet_table(self) -> Table:
        table = Table(box=None, header_style="dim")
        for heading in ("vehicle", "hardware", "slots", "samples stored"):
            table.add_column(heading, justify="right" if heading == "samples stored" else "left")
        for line in self.view.vehicles:
            mark = "[green]●[/green]" if line.online else "[red]○[/red]"
            table.add_row(f"{mark} {line.vehicle}", line.hardware, "  ".join(line.slots), f"{line.stored_samples:,}")
        return table
