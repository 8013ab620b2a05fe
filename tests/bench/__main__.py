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
def main(groups: tuple[str, ...], as_json: bool, full: bool) -> None:
    """Measure and report; a bar that does not hold is not an error.

    \b
    Example: ROADLOOP_DATA=/data scripts/bench vehicle learning
    """
    data = os.environ.get("ROADLOOP_DATA")
    measures: dict[str, Measure] = {**GROUPS, "learning": partial(learning.figures, full=full)}
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
