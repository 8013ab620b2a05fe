"""`roadloop dataset import`."""

from pathlib import Path

import click

from roadloop_cloud.cli.options import with_output
from roadloop_cloud.cli.output import Output, table
from roadloop_cloud.datasets.importers import LAYOUTS, import_layout


@click.command("import")
@click.argument("source", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--layout", required=True, type=click.Choice(list(LAYOUTS)), help="Whose layout it is.")
@click.option(
    "--output",
    "target",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The data folder to write; nothing in it is overwritten.",
)
@click.option("--station", help="pems: the counts of this one station, for traffic-flow.")
@with_output
def command(*, output: Output, source: Path, layout: str, target: Path, station: str | None) -> None:
    """Turn a public data set, as its authors lay it out, into a data folder to train on and to evaluate with.

    \b
    Example:
      roadloop dataset import --layout gtsrb --output ./data ./downloads/GTSRB
    """
    with output.steps(f"Importing {layout}"):
        imported = import_layout(layout, source, target, station)
    output.result(
        {"data": str(target), "tasks": imported.tasks, "rows": imported.rows, "notes": imported.notes},
        table(("file", "rows"), list(imported.rows.items()), title=f"{target}: for {', '.join(imported.tasks)}"),
        *imported.notes,
    )
