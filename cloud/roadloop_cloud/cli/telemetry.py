"""`roadloop telemetry`."""

from dataclasses import asdict

import click

from roadloop_cloud.app import Application
from roadloop_cloud.cli.options import with_application
from roadloop_cloud.cli.output import Output, details, table
from roadloop_cloud.telemetry.account import Totals
from roadloop_models.errors import BadInputError

SHOWN_ROWS = 50
SHOWN_GAPS = 3


@click.group()
def command() -> None:
    """Query what the fleet sent, and prove that nothing is missing.

    \b
    Example:
      roadloop telemetry gaps
    """


@command.command()
@click.argument("sql", required=False)
@click.option("--stream", help="Rows of this stream, instead of SQL.")
@click.option("--vehicle", help="Only this vehicle's, with --stream.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="At most so many, with --stream."
)
@with_application
def query(
    *, app: Application, output: Output, sql: str | None, stream: str | None, vehicle: str | None, limit: int
) -> None:
    """Run SQL (DuckDB) over the streams, each a view under its name with `_` for `-`.

    \b
    Example:
      roadloop telemetry query "SELECT vehicle, avg(confidence) FROM sign_decision GROUP BY vehicle"
      roadloop telemetry query --stream road-speed --vehicle van-1 --limit 10
    """
    if (sql is None) == (stream is None):
        raise BadInputError("telemetry query: give either SQL or --stream")
    if stream is not None:
        known = app.telemetry.streams()
        if stream not in known:
            raise BadInputError(f"no stream {stream}; there are {', '.join(known) or 'none yet'}")
        rows = app.telemetry.read_stream(stream, None if vehicle is None else [vehicle]).slice(0, limit)
    else:
        assert sql is not None
        rows = app.telemetry.query(sql)
    shown = [tuple(row.values()) for row in rows.slice(0, SHOWN_ROWS).to_pylist()]
    rest = [f"{len(rows) - SHOWN_ROWS} more rows; --json prints all"] if len(rows) > SHOWN_ROWS else []
    output.result(rows.to_pylist() if output.as_json else None, table(rows.column_names, shown), *rest)


@command.command()
@click.option("--vehicle", help="Only this vehicle's streams.")
@with_application
def gaps(app: Application, output: Output, vehicle: str | None) -> None:
    """Account for every sequence number: stored, lost for a reason, or missing (in flight, or still on the vehicle).

    \b
    Example:
      roadloop telemetry gaps --vehicle van-1
    """
    accounts, totals = app.telemetry.gaps(vehicle), app.telemetry.totals()
    shown = [
        (
            account.vehicle,
            account.boot,
            account.stream,
            account.highest_seq,
            account.stored,
            _reasons(account.lost) or 0,
            _spans(account.missing),
            account.redelivered,
        )
        for account in accounts
    ]
    columns = ("vehicle", "boot", "stream", "highest", "stored", "lost", "missing", "redelivered")
    output.result(
        {"totals": asdict(totals), "streams": [asdict(account) for account in accounts]},
        table(columns, shown),
        details(_shown(totals), title="whole fleet, counted in storage"),
    )


@command.command()
@with_application
def totals(app: Application, output: Output) -> None:
    """Samples of the whole fleet: produced, stored, stored twice, lost and because of what, and bytes on the wire.

    \b
    Example:
      roadloop telemetry totals --json
    """
    counted = app.telemetry.totals()
    output.result(asdict(counted), details(_shown(counted)))


@command.command()
@with_application
def move(app: Application, output: Output) -> None:
    """Move committed batches to the Delta tables now, instead of with the next job.

    \b
    Example:
      roadloop telemetry move
    """
    moved = app.telemetry.move()
    output.result(asdict(moved), f"{moved.samples} samples of {moved.batches} batches moved")


@command.command("new-epoch")
@with_application
def new_epoch(app: Application, output: Output) -> None:
    """After a database was restored from a backup: ask vehicles for all that they still hold. Restart `up` after it.

    \b
    Example:
      roadloop telemetry new-epoch
    """
    epoch = app.telemetry.begin_new_epoch()
    output.result({"epoch": epoch}, f"ledger epoch {epoch}")


def _reasons(lost: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in lost.items())


def _shown(totals: Totals) -> dict[str, object]:
    return {**asdict(totals), "lost_because": _reasons(totals.lost_because) or "nothing lost"}


def _spans(spans: tuple[tuple[int, int], ...]) -> str | int:
    if not spans:
        return 0
    parts = [str(first) if first == last else f"{first}-{last}" for first, last in spans[:SHOWN_GAPS]]
    return ", ".join(parts) + (f" and {len(spans) - SHOWN_GAPS} more" if len(spans) > SHOWN_GAPS else "")
