"""`roadloop campaign`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from roadloop_cloud.app import Application
from roadloop_cloud.cli.options import with_application, with_output
from roadloop_cloud.cli.output import Output, details, seconds, size, table

if TYPE_CHECKING:
    from roadloop_cloud.campaigns.backtest import Predicted
    from roadloop_cloud.campaigns.service import OnVehicle, Pushed

_FILE = click.Path(path_type=Path, dir_okay=False)
EXAMPLE = """\
# Frames that the sign model is least sure of, with one before and one after each.
name = "unsure-signs"            # its own for ever: what comes is kept under it
task = "traffic-sign"
when = "confidence < 0.95 and (not known(Vehicle.Speed) or Vehicle.Speed > 2)"
rest_frames = 5                  # after a hit: the next frames show the same sign

[highlight]                      # of these the best tenth, by what came before
by = "uncertainty"               # or "novelty"
share = 0.1

[keep]
before_frames = 1
after_frames = 1

[budget]                         # on each vehicle
bytes_per_day = 2_000_000
hits_per_day = 500
"""


@click.group()
def command() -> None:
    """Say which moments vehicles send, how much around them, and what that may cost a day.

    \b
    Example:
      roadloop campaign test unsure.toml --replay van-1.trace
      roadloop campaign push unsure.toml --tag pilot
    """


@command.command()
def example() -> None:
    """Print a campaign file to begin with.

    \b
    Example:
      roadloop campaign example > unsure.toml
    """
    click.echo(EXAMPLE, nl=False)


@command.command()
@click.argument("files", nargs=-1, required=True, type=_FILE, metavar="FILE...")
@click.option(
    "--replay",
    "logs",
    multiple=True,
    required=True,
    type=_FILE,
    metavar="LOG",
    help="What 'roadloop-agent trace' wrote of a drive; repeatable.",
)
@with_output
def test(output: Output, files: tuple[Path, ...], logs: tuple[Path, ...]) -> None:
    """Predict what campaigns would send of recorded drives: hits, items and bytes of each vehicle.

    Several campaigns are predicted together, in this order, as a vehicle runs them: a frame is sent once.

    \b
    Example:
      roadloop campaign test unsure.toml --replay van-1.trace
    """
    from roadloop_cloud.campaigns.backtest import predict
    from roadloop_models.campaigns.campaign import read_campaign
    from roadloop_models.campaigns.trace import read_trace
    from roadloop_models.errors import BadInputError

    campaigns = [read_campaign(file) for file in files]
    found = [predicted for log in logs for predicted in predict(campaigns, read_trace(log))]
    if not found:
        tasks = ", ".join(sorted({campaign.task for campaign in campaigns}))
        raise BadInputError(f"{', '.join(map(str, logs))}: no slot of task {tasks}")
    _print_predicted(output, found)


@command.command()
@click.argument("files", nargs=-1, required=True, type=_FILE, metavar="FILE...")
@click.option("--vehicle", "vehicles", multiple=True, help="Only this vehicle's telemetry; repeatable.")
@click.option(
    "--item-bytes",
    type=click.IntRange(min=1),
    help="How large a frame is. Default: as what was captured of the task so far, on average.",
)
@with_application
def estimate(
    *, app: Application, output: Output, files: tuple[Path, ...], vehicles: tuple[str, ...], item_bytes: int | None
) -> None:
    """Estimate what campaigns would have sent, from the decisions that the fleet has sent already.

    Hits are those of the vehicles' own decisions; bytes are an estimate, since telemetry does not say how large a frame
    is. Signals, novelty and shadows are not in it: 'test' knows them.

    \b
    Example:
      roadloop campaign estimate unsure.toml
    """
    from roadloop_cloud.campaigns.stored import estimate_stored
    from roadloop_models.campaigns.campaign import read_campaign

    campaigns = [read_campaign(file) for file in files]
    found = estimate_stored(app.database, app.telemetry.read_stream, campaigns, vehicles or None, item_bytes)
    _print_predicted(output, found)


@command.command()
@click.argument("file", type=_FILE)
@click.option("--vehicle", "vehicles", multiple=True, help="A vehicle by id; repeatable.")
@click.option("--tag", "tags", multiple=True, help="Vehicles with this tag; repeatable.")
@click.option("--all", "everyone", is_flag=True, help="All vehicles that run the task.")
@with_application
def push(*, app: Application, output: Output, file: Path, **chosen: Any) -> None:
    """Have vehicles run a campaign beside those that they run. One that is off hears of it when it is back.

    \b
    Example:
      roadloop campaign push unsure.toml --tag pilot
    """
    from roadloop_cloud.fleet.choosing import Chosen
    from roadloop_models.campaigns.campaign import read_campaign

    campaign = read_campaign(file)
    vehicles = app.campaigns.push(campaign, Chosen(**chosen))
    output.result(
        {"campaign": campaign.name, "vehicles": vehicles},
        f"campaign {campaign.name} goes to {', '.join(vehicles)}" if vehicles else "these vehicles run it already",
        f"Next: roadloop campaign show {campaign.name}",
    )


@command.command("list")
@with_application
def list_(app: Application, output: Output) -> None:
    """List all campaigns that were pushed, the newest first.

    \b
    Example:
      roadloop campaign list
    """
    pushed = app.campaigns.list()
    rows = [
        (
            one.campaign.name,
            one.campaign.task,
            one.active or "stopped",
            sum(vehicle.items for vehicle in one.vehicles),
            size(sum(vehicle.size_bytes for vehicle in one.vehicles)),
            one.campaign.when,
        )
        for one in pushed
    ]
    shown = table(("campaign", "task", "vehicles", "items", "came", "when"), rows)
    output.result([_as_json(one) for one in pushed], shown if rows else "no campaign was pushed yet")


@command.command()
@click.argument("name")
@with_application
def show(app: Application, output: Output, name: str) -> None:
    """Show one campaign: which vehicles run it, and what came.

    \b
    Example:
      roadloop campaign show unsure
    """
    pushed = app.campaigns.show(name)
    campaign = pushed.campaign
    facts = {
        "task": campaign.task,
        "when": campaign.when,
        "budget": f"{size(campaign.budget.bytes_per_day)} and {campaign.budget.hits_per_day} hits a day",
        "pushed": pushed.pushed.isoformat(timespec="seconds"),
    }
    columns = ("vehicle", "state", "items", "came", "last", "says")
    output.result(_as_json(pushed), details(facts, title=name), table(columns, [_row(one) for one in pushed.vehicles]))


@command.command()
@click.argument("name")
@with_application
def stop(app: Application, output: Output, name: str) -> None:
    """Have no vehicle run a campaign any more. What it brought is kept.

    \b
    Example:
      roadloop campaign stop unsure
    """
    vehicles = app.campaigns.stop(name)
    said = f"campaign {name} ends on {', '.join(vehicles)}" if vehicles else f"campaign {name} ran on no vehicle"
    output.result({"campaign": name, "vehicles": vehicles}, said)


def _print_predicted(output: Output, found: Sequence["Predicted"]) -> None:
    columns = ("vehicle", "slot", "campaign", "drive", "hits", "items", "MB", "MB/day")
    rows = [
        (
            one.vehicle,
            one.slot,
            one.campaign,
            seconds(one.seconds),
            f"{one.hits} and {one.refused} over budget" if one.refused else one.hits,
            one.items,
            f"{one.size_bytes / 1e6:.3f}",
            f"{one.bytes_per_day / 1e6:.1f}",
        )
        for one in found
    ]
    shown = [{**vars(one), "bytes_per_day": one.bytes_per_day} for one in found]
    output.result(
        shown,
        table(columns, rows),
        "MB/day: at the rate of this drive around the clock, without the budget's end of the day",
    )


def _row(one: "OnVehicle") -> tuple[object, ...]:
    state = "runs" if one.runs else "on its way" if one.active else "stopped"
    last = None if one.last is None else one.last.isoformat(timespec="seconds")
    return (one.vehicle, state, one.items, size(one.size_bytes), last, None if one.error is None else one.error.detail)


def _as_json(pushed: "Pushed") -> dict[str, Any]:
    return {
        "name": pushed.campaign.name,
        "campaign": msgspec.to_builtins(pushed.campaign),
        "pushed": pushed.pushed,
        "vehicles": [{**vars(one), "error": msgspec.to_builtins(one.error)} for one in pushed.vehicles],
    }
