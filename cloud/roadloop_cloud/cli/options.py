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
TRAINING_OPTIONS = (
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
    click.option("--epochs", type=click.IntRange(1), help="Instead of what the task's recipe says."),
    click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Of each worker."),
    click.option(
        "--executor",
        type=click.Choice(["local", "torchrun", "ray"]),
        default="local",
        show_default=True,
        help="Where workers are started: here one, here several, or on a Ray cluster.",
    ),
    click.option(
        "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that train together."
    ),
)

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def with_options(*options: Callable[[Any], Any]) -> Callable[[FunctionT], FunctionT]:
    """Add them all; `--help` shows them in this order."""

    def add(function: FunctionT) -> FunctionT:
        for option in reversed(options):
            function = option(function)
        return function

    return add


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
