"""The `roadloop` command. A sub-command is a module that is imported when it is called, so that `--help` is quick."""

import faulthandler
import importlib
import json
import sys
from dataclasses import dataclass
from typing import Any

import click

from roadloop_models.errors import RoadloopError

JSON_ASKED = "roadloop.json"
"""Key in click's `Context.meta`: whether the running command was given `--json`."""


@dataclass(frozen=True)
class _Entry:
    module: str
    help: str


COMMANDS = {
    "init": _Entry("roadloop_cloud.cli.init", "Make a workspace: identities, keys, broker, database, first releases."),
    "up": _Entry("roadloop_cloud.cli.up", "Run the service: ingest, fleet and jobs, watched over."),
    "broker": _Entry(
        "roadloop_cloud.cli.broker", "Run mosquitto in the foreground with the workspace's configuration."
    ),
    "vehicles": _Entry("roadloop_cloud.cli.vehicles", "Add, list, show, tag and explain vehicles."),
    "telemetry": _Entry(
        "roadloop_cloud.cli.telemetry", "Query what the fleet sent, and prove that nothing is missing."
    ),
    "campaign": _Entry(
        "roadloop_cloud.cli.campaign", "Say which moments vehicles send: try on a recorded drive, push, show, stop."
    ),
    "models": _Entry("roadloop_cloud.cli.models", "List, show, evaluate, import and publish models."),
    "drift": _Entry("roadloop_cloud.cli.drift", "See what the fleet sees differently, and who is not believed."),
    "dataset": _Entry("roadloop_cloud.cli.dataset", "Build and inspect training snapshots."),
    "label": _Entry("roadloop_cloud.cli.label", "Ask people and teachers what items show, and keep what they say."),
    "retrain": _Entry("roadloop_cloud.cli.retrain", "Train, quantize, evaluate and gate a candidate."),
    "loop": _Entry("roadloop_cloud.cli.loop", "Let tasks learn by themselves, and show what they decided and why."),
    "rollout": _Entry("roadloop_cloud.cli.rollout", "Take a release to the fleet in waves."),
    "operators": _Entry("roadloop_cloud.cli.operators", "The people whose signature counts: add, list, remove."),
    "evidence": _Entry("roadloop_cloud.cli.evidence", "Verify what 'vehicles explain --export' has signed."),
    "shadow": _Entry("roadloop_cloud.cli.shadow", "Have a release decide beside what vehicles run, and compare."),
    "jobs": _Entry("roadloop_cloud.cli.jobs", "List, show, cancel and retry jobs that run in the background."),
    "keys": _Entry("roadloop_cloud.cli.keys", "Show, change and renew signing keys, and sign where they are."),
}
"""Name -> module with an attribute `command`, and the line that `roadloop --help` shows for it."""


class _LazyGroup(click.Group):
    """Lists its commands from the table; imports one when it runs. Turns RoadloopError into a line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = importlib.import_module(entry.module).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RoadloopError as error:
            click.echo(f"error: {error}", err=True)
            if ctx.meta.get(JSON_ASKED):
                click.echo(json.dumps({"error": {"code": error.code, "detail": str(error)}}))
            sys.exit(error.exit_code)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="roadloop", prog_name="roadloop")
def main() -> None:
    """Run a fleet whose models learn from the road.

    \b
    Example:
      roadloop init ./fleet && roadloop up --workspace ./fleet --broker
    """
    faulthandler.enable(2)  # where native code ends the process, say which call it was
