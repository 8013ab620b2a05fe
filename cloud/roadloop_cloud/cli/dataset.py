"""`roadloop dataset`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from roadloop_cloud.app import Application
from roadloop_cloud.cli import dataset_import
from roadloop_cloud.cli.options import with_application
from roadloop_cloud.cli.output import Output, details, table

if TYPE_CHECKING:
    from roadloop_cloud.datasets.snapshot import Snapshot

_TIMES = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"])


@click.group()
def command() -> None:
    """Build and inspect training snapshots.

    \b
    Example:
      roadloop dataset build --task traffic-speed
    """


command.add_command(dataset_import.command)


@command.command()
@click.option("--task", required=True, help="What the data set is for.")
@click.option(
    "--labels",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="CSV with sha256,label of captured images, and perhaps track.",
)
@click.option(
    "--held-out",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Data folder whose test rows must not come in.",
)
@click.option("--since", type=_TIMES, help="UTC; by the vehicles' clocks.")
@click.option("--until", type=_TIMES, help="UTC; by the vehicles' clocks.")
@with_application
def build(app: Application, output: Output, **options: Any) -> None:
    """Write a snapshot from what the fleet sent. The same rows give the same snapshot.

    \b
    Example:
      roadloop dataset build --task traffic-sign --labels labels.csv --held-out ./data
    """
    from roadloop_cloud.datasets.service import Selection

    times = {key: value.replace(tzinfo=UTC) for key in ("since", "until") if (value := options[key]) is not None}
    selection = Selection(options["task"], options["labels"], options["held_out"], **times)
    with output.steps(f"Building a data set for {selection.task}"):
        snapshot = app.datasets.build(selection)
    _print(output, snapshot)


@command.command("list")
@with_application
def list_(app: Application, output: Output) -> None:
    """List snapshots, the oldest first.

    \b
    Example:
      roadloop dataset list
    """
    found = app.datasets.list()
    shown = [
        (
            snapshot.sha256[:12],
            snapshot.manifest.task,
            snapshot.manifest.rows,
            len(snapshot.manifest.sources),
            f"{datetime.fromtimestamp(snapshot.directory.stat().st_mtime, UTC):%Y-%m-%d %H:%M}",
        )
        for snapshot in found
    ]
    output.result(
        [_as_json(snapshot) for snapshot in found],
        table(("snapshot", "task", "rows", "vehicles", "built (UTC)"), shown),
    )


@command.command()
@click.argument("snapshot")
@with_application
def show(app: Application, output: Output, snapshot: str) -> None:
    """Show one snapshot, by its SHA-256 or the beginning of it: rows, sources, what was left out.

    \b
    Example:
      roadloop dataset show 3f2a9c
    """
    _print(output, app.datasets.show(snapshot))


def _print(output: Output, snapshot: "Snapshot") -> None:
    manifest = snapshot.manifest
    fields = {
        "task": manifest.task,
        "rows": manifest.rows,
        "from": ", ".join(f"{vehicle} {rows}" for vehicle, rows in manifest.sources.items()),
        "left out": ", ".join(f"{reason} {count}" for reason, count in manifest.excluded.items()) or None,
        "gaps": ", ".join(f"{gap.first}..{gap.last}" for gap in manifest.gaps) or None,
        "directory": snapshot.directory,
    }
    output.result(_as_json(snapshot), details(fields, title=f"snapshot {snapshot.sha256}"))


def _as_json(snapshot: "Snapshot") -> dict[str, Any]:
    import msgspec

    return {
        "sha256": snapshot.sha256,
        "directory": str(snapshot.directory),
        **msgspec.to_builtins(snapshot.manifest),
    }
