"""`roadloop rollout`."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.live import Live

from roadloop_cloud.app import Application
from roadloop_cloud.cli.options import with_application
from roadloop_cloud.cli.output import Output, table
from roadloop_cloud.cli.rollout_options import (
    required_signatory,
    rollout_options,
    settings,
    signatory,
    signatory_options,
    target,
    what,
)
from roadloop_cloud.cli.rollout_view import MOVING, as_json, preview_json, preview_shown, shown

if TYPE_CHECKING:
    from roadloop_cloud.rollout.views import RolloutView

LOOK_S = 0.5


@click.group()
def command() -> None:
    """Take a release to the fleet in waves.

    \b
    Example:
      roadloop rollout create --task traffic-sign --release 2 --all --waves 1,50%,100% --watch
    """


@command.command()
@rollout_options
@signatory_options
@click.option("--watch", "watching", is_flag=True, help="Stay and show how it goes.")
@with_application
def create(
    *,
    app: Application,
    output: Output,
    watching: bool,
    operator: str | None,
    key_file: Path | None,
    task: str | None,
    releases: tuple[str, ...],
    **options: Any,
) -> None:
    """Begin to take a release to vehicles. What is not given comes from the workspace's [rollout].

    \b
    Example:
      roadloop rollout create --task traffic-speed --release 2 --tag pilot --waves 1,100% --soak 60
    """
    first, *also = what(task, releases)
    author = signatory(operator, key_file)
    rollout = app.rollouts.create(*first, target(options), settings(options), also=also, author=author)
    _watch(app, output, rollout) if watching else _print(output, app.rollouts.show(rollout))


@command.command("plan")
@rollout_options
@with_application
def plan_(*, app: Application, output: Output, task: str | None, releases: tuple[str, ...], **options: Any) -> None:
    """Show what `create` would do with the same options: waves, data, duration, blast radius, who is left out and why.

    Nothing happens.

    \b
    Example:
      roadloop rollout plan --task traffic-speed --release 2 --all --waves 1,10%,100%
    """
    first, *also = what(task, releases)
    made = app.previews.preview(*first, target(options), settings(options), also=also)
    output.result(preview_json(made), preview_shown(made, time.time()))


@command.command("list")
@with_application
def list_(app: Application, output: Output) -> None:
    """List rollouts, the newest first.

    \b
    Example:
      roadloop rollout list
    """
    found = app.rollouts.list()
    rows = [
        (
            view.id,
            " + ".join(f"{ref.task} {ref.version} (release {ref.release})" for ref in view.spec.releases),
            view.state,
            f"{sum(tally.succeeded for _, tally in view.waves)} of {len(view.members)}",
            view.reason or None,
        )
        for view in found
    ]
    columns = ("rollout", "release", "state", "succeeded", "reason")
    output.result([as_json(view) for view in found], table(columns, rows))


@command.command()
@click.argument("rollout", type=int)
@with_application
def show(app: Application, output: Output, rollout: int) -> None:
    """Show one rollout with its waves and vehicles.

    \b
    Example:
      roadloop rollout show 3
    """
    _print(output, app.rollouts.show(rollout))


@command.command()
@click.argument("rollout", type=int)
@with_application
def watch(app: Application, output: Output, rollout: int) -> None:
    """Show live how a rollout goes, until it ends or pauses. Exit code 1 where it did not succeed.

    \b
    Example:
      roadloop rollout watch 3
    """
    _watch(app, output, rollout)


@command.command()
@click.argument("rollout", type=int)
@with_application
def pause(app: Application, output: Output, rollout: int) -> None:
    """Offer it to no further vehicle for now; those that have it are watched on.

    \b
    Example:
      roadloop rollout pause 3
    """
    _print(output, app.rollouts.pause(rollout))


@command.command()
@click.argument("rollout", type=int)
@with_application
def resume(app: Application, output: Output, rollout: int) -> None:
    """Go on with a paused rollout. A wave that its gate held is let pass.

    \b
    Example:
      roadloop rollout resume 3
    """
    _print(output, app.rollouts.resume(rollout))


@command.command()
@click.argument("rollout", type=int)
@click.option("--take-back", is_flag=True, help="Also from the vehicles on which it succeeded.")
@with_application
def abort(app: Application, output: Output, rollout: int, take_back: bool) -> None:
    """End a rollout now. Vehicles that have not succeeded get the previous release again.

    \b
    Example:
      roadloop rollout abort 3 --take-back
    """
    _print(output, app.rollouts.abort(rollout, take_back_all=take_back))


@command.command()
@click.argument("rollout", type=int)
@click.option("--cohort", help="Only from this cohort, as 'rollout show' names it; the rollout goes on.")
@with_application
def rollback(app: Application, output: Output, rollout: int, cohort: str | None) -> None:
    """Give vehicles back what they ran before: one cohort, or all. From all also after the rollout has succeeded.

    \b
    Example:
      roadloop rollout rollback 3 --cohort "pi-4 | pi4-onnx | factory-1"
    """
    _print(output, app.rollouts.roll_back(rollout, cohort))


@command.command()
@click.argument("rollout", type=int)
@click.option("--wave", type=click.IntRange(1), help="This wave and those before it; else the one that waits.")
@signatory_options
@with_application
def approve(
    *, app: Application, output: Output, rollout: int, wave: int | None, operator: str | None, key_file: Path | None
) -> None:
    """Sign that a wave may be offered. The rollout's creator cannot.

    \b
    Example:
      roadloop rollout approve 3 --as ann --key ~/ann.pem
    """
    _print(output, app.rollouts.approve(rollout, required_signatory(operator, key_file), wave=wave))


@command.command()
@click.argument("rollout", type=int)
@signatory_options
@with_application
def reject(*, app: Application, output: Output, rollout: int, operator: str | None, key_file: Path | None) -> None:
    """Sign that nothing more may be offered, until you approve it.

    \b
    Example:
      roadloop rollout reject 3 --as ann --key ~/ann.pem
    """
    _print(output, app.rollouts.approve(rollout, required_signatory(operator, key_file), approve=False))


def _print(output: Output, view: "RolloutView") -> None:
    output.result(as_json(view), shown(view))


def _watch(app: Application, output: Output, rollout: int) -> None:
    view = app.rollouts.show(rollout)
    begun_s, begun = time.monotonic(), _finished(view)
    with Live(console=output.notes, auto_refresh=False, transient=True) as live:
        while view.state in MOVING:
            if sys.stderr.isatty():
                rate = (_finished(view) - begun) / max(time.monotonic() - begun_s, 1.0)
                eta_s = (len(view.members) - _finished(view)) / rate if rate > 0 else None
                live.update(shown(view, eta_s), refresh=True)
            time.sleep(LOOK_S)
            view = app.rollouts.show(rollout)
    _print(output, view)
    if view.state != "succeeded":
        sys.exit(1)


def _finished(view: "RolloutView") -> int:
    return sum(tally.executed for _, tally in view.waves)
