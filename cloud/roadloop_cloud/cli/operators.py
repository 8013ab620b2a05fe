"""`roadloop operators`."""

from pathlib import Path

import click

from roadloop_cloud.app import Application
from roadloop_cloud.cli.options import with_application
from roadloop_cloud.cli.output import Output, table


@click.group()
def command() -> None:
    """The people whose signature counts: they approve rollouts and sign evidence.

    \b
    Example:
      roadloop operators add ann --key ~/ann.pem
    """


@command.command()
@click.argument("name")
@click.option("--key", "key_file", type=click.Path(path_type=Path, dir_okay=False), help="Where the private key goes.")
@click.option(
    "--public",
    "public_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Or: the public half (PEM, Ed25519) of a key that the person made.",
)
@with_application
def add(app: Application, output: Output, name: str, key_file: Path | None, public_file: Path | None) -> None:
    """Register a person. With --key makes their key: give them the file, the workspace keeps only the public half.

    \b
    Example:
      roadloop operators add ann --key ~/ann.pem
    """
    if (key_file is None) == (public_file is None):
        raise click.UsageError("give --key, to make one, or --public, to register one")
    if key_file is not None:
        app.operators.add(name, key_file)
    elif public_file is not None:
        app.operators.register(name, public_file)
    where = f"; the private key is in {key_file}" if key_file is not None else ""
    output.result({"operator": name, "key": key_file}, f"{name} is registered{where}")


@command.command("list")
@with_application
def list_(app: Application, output: Output) -> None:
    """List the people who are registered, with their public keys.

    \b
    Example:
      roadloop operators list
    """
    from roadloop_cloud.rollout.statements import raw_public

    rows = [(name, raw_public(app.operators.public_key(name)).hex()) for name in app.operators.names()]
    columns = ("operator", "public key")
    output.result([{"operator": name, "public_key": key} for name, key in rows], table(columns, rows))


@command.command()
@click.argument("name")
@with_application
def remove(app: Application, output: Output, name: str) -> None:
    """Take a person off. What they approved no longer counts where a wave still waits for it.

    \b
    Example:
      roadloop operators remove ann
    """
    app.operators.remove(name)
    output.result({"operator": name}, f"{name} is no longer registered")
