"""What all commands of `roadloop-agent` have in common: options, errors in one line, tables."""

import json
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from roadloop_models.errors import RoadloopError

ConfigPath = click.Path(path_type=Path, dir_okay=False)
Directory = click.Path(path_type=Path, file_okay=False)
CONFIG = click.option(
    "--config",
    "config_path",
    type=ConfigPath,
    default=Path("vehicle.toml"),
    show_default=True,
    help="The vehicle's configuration.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="For machines.")
P = ParamSpec("P")
R = TypeVar("R")


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """An error of the catalogue is one line on stderr, and its exit code."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except RoadloopError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(error.exit_code)

    return wrapped


def print_json(value: Any) -> None:
    """For machines."""
    click.echo(json.dumps(value, indent=1))


def print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """For people."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
