"""`roadloop init`."""

from pathlib import Path
from typing import Any

import click

from roadloop_cloud.cli.options import with_output
from roadloop_cloud.cli.output import Output, table


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), default=".")
@click.option(
    "--releases",
    type=click.Choice(["factory", "starter"]),
    default="factory",
    show_default=True,
    help="Which packaged bundles become release 1; 'starter' are trained on less, for the demo.",
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Name or address that vehicles reach the broker by."
)
@click.option("--port", type=click.IntRange(1, 65535), default=8883, show_default=True, help="The broker's port.")
@click.option("--bind", help="Address that the broker listens on, where it is not --host.")
@click.option(
    "--files-port",
    type=click.IntRange(1, 65535),
    help="Serve files by HTTPS too, at this port; without it vehicles get everything over MQTT.",
)
@click.option(
    "--database",
    "database_url",
    default="sqlite:///state.sqlite",
    show_default=True,
    help="SQLAlchemy URL, for example postgresql+psycopg://user@host/name.",
)
@with_output
def command(directory: Path, output: Output, **options: Any) -> None:
    """Make a workspace in DIRECTORY: identities, signing keys, broker, database, and the first releases.

    \b
    Example:
      roadloop init ./fleet --host fleet.example.com
    """
    from roadloop_cloud.config import BrokerConfig, Config, DatabaseConfig, FilesConfig
    from roadloop_cloud.founding import found_workspace
    from roadloop_models.packaged import packaged_bundles

    host = options["host"]
    names = tuple(dict.fromkeys([host, "localhost", "127.0.0.1"]))
    config = Config(
        broker=BrokerConfig(host=host, port=options["port"], bind=options["bind"], names=names),
        database=DatabaseConfig(url=options["database_url"]),
        files=FilesConfig(port=options["files_port"]),
    )
    with output.steps("Making a workspace") as step:
        releases = found_workspace(directory, config, packaged_bundles(options["releases"]), step)
    rows = [(ref.task, ref.release, ref.version) for ref in releases]
    output.result(
        {
            "workspace": directory.resolve(),
            "releases": [{"task": task, "release": release, "version": version} for task, release, version in rows],
        },
        table(("task", "release", "version"), rows, title=f"Workspace {directory}"),
        f"Next: roadloop vehicles add van-1 --profile x86-64-onnx --output ./van-1 --workspace {directory}",
    )
