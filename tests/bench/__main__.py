"""Runs the groups of figures and prints a table, or JSON."""

import json
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import click
from rich.console import Console
from rich.table import Table

from tests.bench import delivery, fleet, learning, soak, vehicle
from tests.bench.figures import Figure, Result, Skipped, machine

Measure: TypeAlias = Callable[[Path | None], Iterable[Result]]
GROUPS: dict[str, Measure] = {
    "vehicle": vehicle.figures,
    "delivery": delivery.figures,
    "fleet": fleet.figures,
    "learning": learning.figures,
    "soak": soak.figures,
}
USUAL = ("vehicle", "delivery", "fleet", "learning")
"""What runs where no group is named."""


@click.command()
@click.argument(
    "groups", nargs=-1, type=click.Choice(list(GROUPS)), metavar="[vehicle|delivery|fleet|learning|soak]..."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--full", is_flag=True, help="learning: train again what ships, instead of measuring its files alone.")
@click.option("--part", "only", multiple=True, metavar="NAME", help="learning: this part alone; may be given again.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="learning --full: where what is trained stays; asked again, it goes on with what is there.",
)
def main(groups: tuple[str, ...], as_json: bool, full: bool, only: tuple[str, ...], keep: Path | None) -> None:
    """Measure and report; a bar that does not hold is not an error.

    \b
    Example: ROADLOOP_DATA=/data scripts/bench vehicle learning
    """
    data = os.environ.get("ROADLOOP_DATA")
    if only and (unknown := set(only) - set(parts := learning.parts())):
        raise click.BadParameter(f"no part {', '.join(sorted(unknown))}; there is {', '.join(parts)}")
    if keep is not None and not full:
        raise click.UsageError("--keep keeps what --full trains; give --full too")
    chosen = partial(learning.figures, full=full, keep=keep, only=only)
    measures: dict[str, Measure] = {**GROUPS, "learning": chosen}
    console = Console(stderr=True)
    results: list[Result] = []
    for group in groups or USUAL:
        with console.status(f"measuring: {group}"):
            for result in measures[group](Path(data) if data else None):
                results.append(result)
                console.print(_line(result), highlight=False)
    figures = [result for result in results if isinstance(result, Figure)]
    if as_json:
        rows = [
            {
                "name": figure.name,
                "value": figure.value,
                "unit": figure.unit,
                "bar": figure.bar_text,
                "holds": figure.holds,
                "command": figure.command,
            }
            for figure in figures
        ]
        click.echo(json.dumps({"machine": machine(), "figures": rows}, indent=1))
        return
    Console().print(_table(figures))


def _line(result: Result) -> str:
    if isinstance(result, Skipped):
        return f"skipped {result.name}: {result.reason}"
    return f"{result.name} {result.value:,.4g} {result.unit}"


def _table(figures: list[Figure]) -> Table:
    table = Table(title=" · ".join(f"{key} {value}" for key, value in machine().items()), title_style="dim")
    for heading in ("figure", "value", "unit", "bar", "holds"):
        table.add_column(heading, justify="right" if heading == "value" else "left")
    marks = {True: "[green]yes[/green]", False: "[red]no[/red]", None: ""}
    for figure in figures:
        table.add_row(figure.name, f"{figure.value:,.4g}", figure.unit, figure.bar_text or "", marks[figure.holds])
    return table


if __name__ == "__main__":
    main()
