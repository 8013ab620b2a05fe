"""`roadloop keys`."""

import click

from roadloop_cloud.app import Application
from roadloop_cloud.cli.options import with_application
from roadloop_cloud.cli.output import Output, table
from roadloop_cloud.store.database import now_utc


@click.group()
def command() -> None:
    """Show signing keys and keep their metadata fresh.

    \b
    Example:
      roadloop keys show
    """


@command.command()
@with_application
def show(app: Application, output: Output) -> None:
    """Show each role's key, the version of its metadata and until when that is believed.

    \b
    Example:
      roadloop keys show --json
    """
    now = now_utc()
    rows = [
        {
            "role": status.role,
            "version": status.version,
            "expires": status.expires,
            "expired": status.expires <= now,
            "keys": list(status.key_ids),
        }
        for status in app.repository.status()
    ]
    shown = [
        (
            row["role"],
            row["version"],
            f"{row['expires']:%Y-%m-%d %H:%M} UTC{' EXPIRED' if row['expired'] else ''}",
            ", ".join(key[:16] for key in row["keys"]),  # type: ignore[attr-defined]
        )
        for row in rows
    ]
    output.result(rows, table(("role", "version", "expires", "key"), shown))


@command.command()
@click.option("--offline", is_flag=True, help="Root and targets too; needs the offline keys.")
@with_application
def renew(app: Application, output: Output, offline: bool) -> None:
    """Sign metadata anew before it expires. The running service does it for snapshot and timestamp by itself.

    \b
    Example:
      roadloop keys renew --offline
    """
    renewed = True
    if offline:
        app.releases.renew_offline()
    else:
        renewed = app.releases.renew_online()
    output.result({"renewed": renewed}, "signed anew" if renewed else "nothing is due yet")
