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
    help="CSV with sha256,label of captured images, and perhaps track and weather.",
)
@click.option(
    "--held-out",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Data folder whose test rows must not come in.",
)
@click.option(
    "--split-by",
    type=click.Choice(["track", "drive", "vehicle", "time"]),
    help="What must not lie on both sides of a split; else what suits the task.",
)
@click.option("--with-test", is_flag=True, help="Set a fifth aside for testing, below test/.")
@click.option(
    "--teacher-above",
    type=click.FloatRange(0, 1),
    default=0.9,
    show_default=True,
    help="A teacher's labels count where it is surer than this; 1: never.",
)
@click.option("--vehicle", help="Only what this vehicle sent.")
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

    times = {key: moment.replace(tzinfo=UTC) for key in ("since", "until") if (moment := options.pop(key)) is not None}
    selection = Selection(**options, **times)
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
    """Show one snapshot, by its SHA-256 or the beginning of it: rows, splits, labels, what was left out or is odd.

    \b
    Example:
      roadloop dataset show 3f2a9c
    """
    _print(output, app.datasets.show(snapshot))


@command.command()
@click.argument("before", required=False)
@click.argument("after", required=False)
@click.option("--task", help="Instead of two names: the last two snapshots of this task.")
@with_application
def diff(app: Application, output: Output, before: str | None, after: str | None, task: str | None) -> None:
    """Show what changed from one snapshot to another: rows, labels, splits, and rows that leak between them.

    \b
    Example:
      roadloop dataset diff 3f2a9c 81bd04
    """
    if task is not None and before is None:
        before, after = app.datasets.last_two(task)
    if before is None or after is None:
        raise click.UsageError("name two snapshots, or --task")
    found = app.datasets.diff(before, after)
    fields = {
        "same": found.same,
        "added": found.added,
        "removed": found.removed,
        "by vehicle": ", ".join(f"{vehicle} {count:+}" for vehicle, count in found.by_vehicle.items()) or None,
        "called otherwise": "\n".join(found.relabelled) or None,
        "in another split": "\n".join(found.moved) or None,
        "trained on in one, judged by in the other": "\n".join(found.leaked) or None,
    }
    output.result(vars(found), details(fields, title=f"{before} -> {after}"))


def _print(output: Output, snapshot: "Snapshot") -> None:
    manifest = snapshot.manifest
    fields = {
        "task": manifest.task,
        "rows": manifest.rows,
        "from": ", ".join(f"{vehicle} {rows}" for vehicle, rows in manifest.sources.items()),
        "left out": ", ".join(f"{reason} {count}" for reason, count in manifest.excluded.items()) or None,
        "split by": manifest.split_by,
        **{f"  {name}": f"{count.rows} rows in {count.groups} groups" for name, count in manifest.splits.items()},
        "labels by": ", ".join(f"{origin} {rows}" for origin, rows in manifest.labels.items()) or None,
        "gaps": ", ".join(f"{gap.first}..{gap.last}" for gap in manifest.gaps) or None,
        "directory": snapshot.directory,
    }
    shown = [details(fields, title=f"snapshot {snapshot.sha256}")]
    if manifest.findings:
        columns = ("check", "rows", "left out", "first of them")
        rows = [
            (
                f"{one.check}" + (f" ({one.detail})" if one.detail else ""),
                one.count,
                one.left_out,
                "\n".join(one.rows[:5]),
            )
            for one in manifest.findings
        ]
        shown.append(table(columns, rows, title="what is odd about rows"))
    output.result(_as_json(snapshot), *shown)


def _as_json(snapshot: "Snapshot") -> dict[str, Any]:
    import msgspec

    return {
        "sha256": snapshot.sha256,
        "directory": str(snapshot.directory),
        **msgspec.to_builtins(snapshot.manifest),
    }
