"""`roadloop broker`."""

import os

import click

from roadloop_cloud.app import Application
from roadloop_cloud.cli.options import with_application
from roadloop_cloud.cli.output import Output


@click.command()
@with_application
def command(app: Application, output: Output) -> None:
    """Run mosquitto in the foreground, with mutual TLS and an access list per vehicle.

    \b
    Example:
      roadloop broker --workspace ./fleet
    """
    from roadloop_cloud.broker import broker_arguments, find_mosquitto, write_broker_files
    from roadloop_cloud.supervise import allow_descriptors

    program = find_mosquitto()
    allow_descriptors()
    write_broker_files(app.workspace, app.authority)
    broker = app.workspace.config.broker
    output.note(f"mosquitto {program.version()} on {broker.bind or broker.host}:{broker.port}")
    os.chdir(app.workspace.root)
    arguments = broker_arguments(program)
    # This process becomes the broker, so that a signal reaches it and its exit status is the broker's.
    os.execve(arguments[0], arguments, {**os.environ, **program.environment()})
