"""`roadloop rollout`."""

import sys
import time
from typing import TYPE_CHECKING, Any

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from roadloop_cloud.app import Application
from roadloop_cloud.cli.options import with_application
from roadloop_cloud.cli.output import Output, table

if TYPE_CHECKING:
    from roadloop_cloud.rollout.service import MemberView, RolloutView

LOOK_S = 0.5
_STYLES = {"succeeded": "green", "failed": "red", "aborted": "red", "paused": "yellow", "offered": "cyan"}
_MOVING = ("running",)


@click.group()
def command() -> None:
    """Take a release to the fleet in waves.

    \b
    Example:
      roadloop rollout create --task traffic-sign --release 2 --all --waves 1,50%,100% --watch
    """


@command.command()
@click.option("--task", required=True, help="What the release is for.")
@click.option("--release", type=click.IntRange(1), required=True, help="Number of the release.")
@click.option("--vehicle", "vehicles", multiple=True, help="A vehicle by id; repeatable.")
@click.option("--tag", "tags", multiple=True, help="Vehicles with this tag; repeatable.")
@click.option("--all", "everyone", is_flag=True, help="All vehicles that run the task.")
@click.option("--waves", help="How many have it after each wave: counts or shares, for example 1,50%,100%.")
@click.option("--success-threshold", type=click.FloatRange(0, 1), help="Share of a wave that must succeed.")
@click.option("--error-threshold", type=click.FloatRange(0, 1), help="Above this share of failures it is taken back.")
@click.option("--min-executed", type=click.IntRange(1), help="How many must have finished before errors count.")
@click.option("--soak", "soak_s", type=click.FloatRange(0), help="Seconds between a wave's success and the next wave.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0, min_open=True), help="Seconds a vehicle may take.")
@click.option("--health-window", "health_window_s", type=click.FloatRange(0, min_open=True), help="Seconds on trial.")
@click.option("--fetch-rate", "fetch_bytes_per_s", type=click.IntRange(1024), help="Bytes a second to each vehicle.")
@click.option("--watch", "watching", is_flag=True, help="Stay and show how it goes.")
@with_application
def create(*, app: Application, output: Output, watching: bool, **options: Any) -> None:
    """Begin to take a release to vehicles. What is not given comes from the workspace's [rollout].

    \b
    Example:
      roadloop rollout create --task traffic-speed --release 2 --tag pilot --waves 1,100% --soak 60
    """
    from roadloop_cloud.rollout.service import Settings, Target

    waves = options.pop("waves")
    target = Target(options.pop("vehicles"), options.pop("tags"), options.pop("everyone"))
    task, release = options.pop("task"), options.pop("release")
    settings = Settings(waves=None if waves is None else tuple(waves.split(",")), **options)
    rollout = app.rollouts.create(task, release, target, settings)
    _watch(app, output, rollout) if watching else _print(output, app.rollouts.show(rollout))


@command.command("list")
@with_application
def list_(app: Application, output: Output) -> None:
    """List rollouts, the newest first.

    \b
    Example:
      roadloop rollout list
    """
    found = app.rollouts.list()
    shown = [
        (
            view.id,
            view.spec.release.task,
            f"{view.spec.release.version} (release {view.spec.release.release})",
            view.state,
            f"{_count(view.members, 'succeeded')} of {len(view.members)}",
            view.reason or None,
        )
        for view in found
    ]
    columns = ("rollout", "task", "release", "state", "succeeded", "reason")
    output.result([as_json(view) for view in found], table(columns, shown))


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


def as_json(view: "RolloutView") -> dict[str, Any]:
    """A rollout for machines."""
    return {
        "id": view.id,
        "task": view.spec.release.task,
        "release": view.spec.release.release,
        "version": view.spec.release.version,
        "state": view.state,
        "reason": view.reason,
        "waves": [
            {
                "size": size,
                "succeeded": _count(_wave(view, number), "succeeded"),
                "failed": _count(_wave(view, number), "failed"),
                "offered": _count(_wave(view, number), "offered"),
                "waiting": _count(_wave(view, number), "waiting"),
            }
            for number, size in enumerate(view.spec.wave_sizes)
        ],
        "vehicles": [
            {"vehicle": member.vehicle, "wave": member.wave + 1, "state": member.state, "error": member.error}
            for member in view.members
        ],
    }


def _print(output: Output, view: "RolloutView") -> None:
    output.result(as_json(view), _shown(view))


def _watch(app: Application, output: Output, rollout: int) -> None:
    view = app.rollouts.show(rollout)
    with Live(console=output.notes, auto_refresh=False, transient=True) as live:
        while view.state in _MOVING:
            if sys.stderr.isatty():
                live.update(_shown(view), refresh=True)
            time.sleep(LOOK_S)
            view = app.rollouts.show(rollout)
    _print(output, view)
    if view.state != "succeeded":
        sys.exit(1)


def _shown(view: "RolloutView") -> RenderableType:
    ref = view.spec.release
    head = Text.assemble(
        f"rollout {view.id}: {ref.task} {ref.version} (release {ref.release})  ",
        (view.state, _STYLES.get(view.state, "bold")),
    )
    parts: list[RenderableType] = [head]
    if view.reason:
        parts.append(Text(view.reason, style=_STYLES.get(view.state, "")))
    waves = Table.grid(padding=(0, 1))
    for number, size in enumerate(view.spec.wave_sizes):
        members = _wave(view, number)
        done = _count(members, "succeeded", "failed")
        bar = ProgressBar(total=size, completed=done, width=24)
        failed = _count(members, "failed")
        note = f"{_count(members, 'succeeded')} of {size}" + (f", {failed} failed" if failed else "")
        waves.add_row("▶" if number == view.wave and view.state in _MOVING else " ", f"wave {number + 1}", bar, note)
    parts.append(waves)
    vehicles = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("vehicle", "wave", "state", "says"):
        vehicles.add_column(column, overflow="fold")
    for member in view.members:
        state = Text(member.state, style=_STYLES.get(member.state, "dim"))
        vehicles.add_row(member.vehicle, str(member.wave + 1), state, _says(view, member))
    parts.append(vehicles)
    return Group(*parts)


def _says(view: "RolloutView", member: "MemberView") -> str:
    """The vehicle's own word on its way to the release."""
    if member.error is not None:
        return member.error
    slots = [] if member.report is None else member.report.slots.values()
    for slot in slots:
        if slot.task == view.spec.release.task:
            running = "nothing" if slot.running is None else f"runs {slot.running.version}"
            blocks = f" {slot.blocks_done}/{slot.blocks_total} blocks" if slot.state == "fetching" else ""
            return running if slot.state == "idle" else f"{running}, {slot.state}{blocks}"
    return ""


def _wave(view: "RolloutView", number: int) -> "list[MemberView]":
    return [member for member in view.members if member.wave == number]


def _count(members: "Any", *states: str) -> int:
    return sum(member.state in states for member in members)
