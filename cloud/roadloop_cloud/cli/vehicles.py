"""`roadloop vehicles`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from roadloop_cloud.app import Application
from roadloop_cloud.cli.explain import explain
from roadloop_cloud.cli.options import with_application
from roadloop_cloud.cli.output import Output, age, details, table
from roadloop_cloud.store.database import now_utc

if TYPE_CHECKING:
    from roadloop_cloud.store.ingest_tables import Vehicle

BEHIND_AFTER_S = 900.0
"""A vehicle that is online asks its director within a minute of hearing that there is news, and every few hours."""


@click.group()
def command() -> None:
    """Add, list, show, tag and explain vehicles.

    \b
    Example:
      roadloop vehicles list --tag test-fleet
    """


@command.command()
@click.argument("vehicle_id", metavar="ID")
@click.option("--profile", required=True, help="Hardware profile: a TOML file, or the name of a packaged one.")
@click.option(
    "--output",
    "directory",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder to write; it goes to the vehicle and holds its private key.",
)
@click.option("--tag", "tags", multiple=True, help="Tag to select the vehicle by; repeatable.")
@click.option("--count", type=click.IntRange(1, 100_000), help="Add so many: ID-1, ID-2, …, each in a folder below.")
@with_application
def add(
    *,
    app: Application,
    output: Output,
    vehicle_id: str,
    profile: str,
    directory: Path,
    tags: tuple[str, ...],
    count: int | None,
) -> None:
    """Add a vehicle and write the folder that provisions it.

    \b
    Example:
      roadloop vehicles add van-1 --profile x86-64-onnx --output ./van-1
      roadloop-agent run --config ./van-1/vehicle.toml
    """
    from roadloop_cloud.identity.provisioning import load_profile

    if count is not None:
        rows = app.vehicles.add_many(vehicle_id, count, load_profile(profile), directory, tags)
        output.result(
            [_as_json(row) for row in rows], f"{rows[0].id} to {rows[-1].id} are provisioned in folders of {directory}"
        )
        return
    row = app.vehicles.add(vehicle_id, load_profile(profile), directory, tags)
    output.result(
        {**_as_json(row), "config": directory.resolve() / "vehicle.toml"},
        f"{vehicle_id} ({row.hardware}) is provisioned in {directory}",
        f"Next, on the vehicle: roadloop-agent run --config {directory}/vehicle.toml",
    )


@command.command("list")
@click.option("--tag", help="Only those that carry this tag.")
@with_application
def list_(app: Application, output: Output, tag: str | None) -> None:
    """List vehicles: hardware, versions, last seen.

    \b
    Example:
      roadloop vehicles list --json
    """
    rows, now = app.vehicles.list(tag), now_utc()
    shown = [
        (
            row.id,
            _state(app, row),
            age(row.last_seen, now),
            row.hardware,
            ", ".join(row.tags),
            "\n".join(_slot_line(name, slot) for name, slot in _slots(row).items()) or None,
        )
        for row in rows
    ]
    columns = ("vehicle", "state", "last seen", "hardware", "tags", "runs")
    output.result([_with_director(app, row) for row in rows], table(columns, shown))


@command.command()
@click.argument("vehicle_id", metavar="ID")
@with_application
def show(app: Application, output: Output, vehicle_id: str) -> None:
    """Show one vehicle with what it reported last.

    \b
    Example:
      roadloop vehicles show van-1
    """
    row, now = app.vehicles.get(vehicle_id), now_utc()
    fields = {
        "hardware": row.hardware,
        "profile": row.profile,
        "tags": ", ".join(row.tags) or None,
        "state": _state(app, row),
        "director": _director_line(row),
        "last seen": age(row.last_seen, now),
        "reported": age(row.reported_at, now),
        "agent": row.agent_version,
        **{f"slot {name}": _slot_line(name, slot) for name, slot in _slots(row).items()},
    }
    output.result(_with_director(app, row), details(fields, title=vehicle_id))


@command.command("tag")
@click.argument("vehicle_id", metavar="ID")
@click.option("--add", multiple=True, help="Tag to add; repeatable.")
@click.option("--remove", multiple=True, help="Tag to take off; repeatable.")
@with_application
def tag_(app: Application, output: Output, vehicle_id: str, add: tuple[str, ...], remove: tuple[str, ...]) -> None:
    """Add and remove tags.

    \b
    Example:
      roadloop vehicles tag van-1 --add test-fleet --remove spare
    """
    row = app.vehicles.tag(vehicle_id, add, remove)
    output.result(_as_json(row), f"{vehicle_id}: {', '.join(row.tags) or 'no tags'}")


def _state(app: Application, row: "Vehicle") -> str:
    if not row.online:
        return "offline"
    behind_s = _behind_s(app, row)
    return f"online, has not seen its newest assignment for {behind_s / 60:.0f} min" if behind_s else "online"


def _behind_s(app: Application, row: "Vehicle") -> float:
    """How long a vehicle that is online has been kept from its newest assignment; 0 within the time that is usual."""
    if not row.online:
        return 0.0
    behind_s = app.directors.behind_s(row.id, (row.reported or {}).get("director_version", 0))
    return behind_s if behind_s > BEHIND_AFTER_S else 0.0


def _with_director(app: Application, row: "Vehicle") -> dict[str, Any]:
    return {**_as_json(row), "director_behind_s": _behind_s(app, row)}


def _director_line(row: "Vehicle") -> str | None:
    error = (row.reported or {}).get("director_error")
    return f"{error['code']}: {error['detail']}" if error else None


command.add_command(explain)


def _slots(row: "Vehicle") -> dict[str, dict[str, Any]]:
    slots: dict[str, dict[str, Any]] = (row.reported or {}).get("slots", {})
    return slots


def _slot_line(name: str, slot: dict[str, Any]) -> str:
    running = slot.get("running")
    version = f"{running['version']} (release {running['release']})" if running else "nothing"
    state = "" if slot.get("state") == "idle" else f", {slot.get('state')}"
    error = slot.get("error")
    reason = f": {error['code']}" if error else ""
    trouble = f"; in trouble: {slot['trouble']['detail']}" if slot.get("trouble") else ""
    shadow = slot.get("shadow")
    beside = f"; in its shadow {shadow['ref']['version']}, {shadow['state']}" if shadow else ""
    return f"{name}: {version} on {slot.get('runtime')}-{slot.get('precision')}{state}{reason}{trouble}{beside}"


def _as_json(row: "Vehicle") -> dict[str, Any]:
    return {
        "id": row.id,
        "hardware": row.hardware,
        "profile": row.profile,
        "tags": row.tags,
        "created": row.created,
        "online": row.online,
        "last_seen": row.last_seen,
        "agent_version": row.agent_version,
        "reported_at": row.reported_at,
        "reported": row.reported,
    }
