"""What a command prints: tables and progress for people, one JSON document for machines."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import click
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table


class Step(Protocol):
    """Says which step runs now, and optionally how much of it is done (0..1)."""

    def __call__(self, text: str, done: float | None = None) -> None:
        """Show it."""
        ...


class Output:
    """Where a command's result goes: stdout, and only once. Progress and notes go to stderr."""

    def __init__(self, *, as_json: bool) -> None:
        """`as_json` is what `--json` said."""
        self.as_json = as_json
        # What is shown may be a vehicle's word: `[/x]` in it is no markup, and must not end the command.
        self.console = Console(soft_wrap=False, markup=False, emoji=False)
        self.notes = Console(stderr=True, quiet=as_json, markup=False, emoji=False)

    def result(self, data: Any, *shown: RenderableType) -> None:
        """The result: `data` as JSON for machines, `shown` for people."""
        if self.as_json:
            click.echo(json.dumps(data, default=_plain, indent=1))
        else:
            for renderable in shown:
                self.console.print(renderable)

    def note(self, text: str) -> None:
        """A line for people, on stderr."""
        self.notes.print(text, highlight=False)

    @contextmanager
    def steps(self, title: str) -> Iterator[Step]:
        """Progress of a longer command: a live line on a terminal, one line a step elsewhere, nothing with --json."""
        if self.as_json:
            yield lambda text, done=None: None
        elif sys.stderr.isatty():
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TimeElapsedColumn(),
            )
            with Progress(*columns, console=self.notes, transient=False) as progress:
                task = progress.add_task(title, total=None)

                def show(text: str, done: float | None = None) -> None:
                    progress.update(task, description=text, total=None if done is None else 1.0, completed=done or 0.0)

                yield show
                progress.update(task, total=1.0, completed=1.0)
        else:
            last = ""

            def line(text: str, done: float | None = None) -> None:
                nonlocal last
                if text != last:
                    self.note(text)
                    last = text

            yield line


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> Table:
    """A table for people; None is shown as a dash."""
    made = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*("-" if cell is None else str(cell) for cell in row))
    return made


def details(values: Mapping[str, object], title: str | None = None) -> Table:
    """One thing's fields, one a line."""
    made = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    made.add_column(style="bold")
    made.add_column(overflow="fold")
    for key, value in values.items():
        made.add_row(key, "-" if value is None else str(value))
    return made


def age(moment: datetime | None, now: datetime) -> str:
    """How long ago, for people."""
    if moment is None:
        return "never"
    seconds = max(0, int((now - moment).total_seconds()))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def seconds(amount_s: float) -> str:
    """A stretch of time, for people."""
    for unit_s, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if amount_s >= 2 * unit_s:
            return f"{amount_s / unit_s:.1f} {unit}"
    return f"{amount_s:.0f} s"


def size(amount_bytes: float) -> str:
    """A number of bytes, for people."""
    for unit_bytes, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if amount_bytes >= unit_bytes:
            return f"{amount_bytes / unit_bytes:.1f} {unit}"
    return f"{amount_bytes:.0f} B"


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no JSON")
