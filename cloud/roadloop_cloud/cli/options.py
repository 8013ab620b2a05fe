"""Options that every command has, `--workspace` and `--json`, and those that several share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from roadloop_cloud.app import Application
from roadloop_cloud.cli import JSON_ASKED
from roadloop_cloud.cli.output import Output
from roadloop_cloud.workspace import Workspace

DATA_OPTION = click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Data folder, the one that holds gtsrb32/ and losloop/.",
)

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def with_output(function: FunctionT) -> FunctionT:
    """Add `--json`; the command receives `output: Output`."""

    def make(context: click.Context, _parameter: click.Parameter, value: bool) -> Output:
        context.meta[JSON_ASKED] = value
        return Output(as_json=value)

    option = click.option(
        "--json", "output", is_flag=True, callback=make, is_eager=True, help="Print JSON for machines."
    )
    return option(function)


def with_application(function: FunctionT) -> FunctionT:
    """Add `--workspace` and `--json`; the command receives `app: Application` and `output: Output`."""

    def make(_context: click.Context, _parameter: click.Parameter, value: Path) -> Application:
        return Application(Workspace.open(value))

    option = click.option(
        "--workspace",
        "app",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="ROADLOOP_WORKSPACE",
        default=".",
        show_default="the current directory",
        show_envvar=True,
        callback=make,
        help="The workspace.",
    )
    return option(with_output(function))


def with_request(function: FunctionT) -> FunctionT:
    """Add `--request`: what offline keys have to sign is written there, and nothing is published."""
    return click.option(
        "--request",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Publish nothing: write to this file what is to be signed where the keys are.",
    )(function)
