"""`roadloop retrain`."""

import sys
from typing import Any

import click

from roadloop_cloud.app import Application
from roadloop_cloud.cli.job_runs import BACKGROUND_OPTION, queue_job, run_job_here
from roadloop_cloud.cli.options import with_application
from roadloop_cloud.cli.output import Output, table
from roadloop_cloud.cli.retrain_options import retrain_options, retrain_spec


@click.command()
@click.option("--task", required=True, help="What to retrain.")
@click.option("--snapshot", help="Train on this snapshot; else one is built from all that is stored.")
@click.option("--incumbent", help="Version to start from and to beat; else what the fleet runs.")
@click.option("--version", help="Name of the candidate; else retrain-<job>.")
@retrain_options
@BACKGROUND_OPTION
@with_application
def command(app: Application, output: Output, background: bool, **options: Any) -> None:
    """Train a candidate from what the fleet sent, and compare its quantized files with the incumbent's.

    Both are evaluated with the vehicle's own runner on the test rows of --data, of which nothing is trained on. Exit
    code 1 where the candidate is refused; the output says which gate and by how much.

    \b
    Example:
      roadloop retrain --task traffic-speed --data ./data --publish --rollout 1,50%,100%
    """
    import msgspec

    from roadloop_cloud.retrain.pipeline import KIND

    spec = msgspec.to_builtins(retrain_spec(**options))
    if background:
        queue_job(app, output, KIND, spec)
        return
    job, result = run_job_here(app, output, KIND, spec, app.retraining.run, title=f"Retraining {options['task']}")
    figures = [_row(side, result[side], _keys(result)) for side in ("incumbent", "candidate")]
    released = None if result["release"] is None else f"release {result['release']}"
    rolling = None if result["rollout"] is None else f"rollout {result['rollout']}"
    verdict = ", ".join(filter(None, ["accepted", released, rolling])) if result["accepted"] else "refused"
    output.result(
        {"job": job, **result},
        table(("", "version", *_keys(result)), figures, title=f"{result['metric']} on {result['rows']} held-out rows"),
        f"{result['candidate']['version']}: {verdict}",
        *(f"  {reason}" for reason in result["refusals"]),
    )
    if not result["accepted"]:
        sys.exit(1)


def _keys(result: dict[str, Any]) -> list[str]:
    return sorted(result["candidate"]["by_variant"])


def _row(side: str, figures: dict[str, Any], keys: list[str]) -> list[str | None]:
    values = (figures["by_variant"].get(key) for key in keys)
    return [side, figures["version"], *(None if value is None else f"{value:.5g}" for value in values)]
