"""`roadloop retrain`."""

import sys
from pathlib import Path
from typing import Any

import click

from roadloop_cloud.app import Application
from roadloop_cloud.cli.models import DATA_OPTION
from roadloop_cloud.cli.options import with_application
from roadloop_cloud.cli.output import Output, table


@click.command()
@click.option("--task", required=True, help="What to retrain.")
@DATA_OPTION
@click.option("--snapshot", help="Train on this snapshot; else one is built from all that is stored.")
@click.option(
    "--labels",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="For the snapshot: CSV with sha256,label of captured images.",
)
@click.option(
    "--base",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Data folder whose rows are trained on beside the snapshot, so that nothing is forgotten.",
)
@click.option(
    "--base-part",
    type=click.Choice(["all", "starter", "rest"]),
    default="starter",
    show_default=True,
    help="Which training rows of --base.",
)
@click.option("--incumbent", help="Version to start from and to beat; else what the fleet runs.")
@click.option("--version", help="Name of the candidate; else retrain-<job>.")
@click.option(
    "--margin", type=click.FloatRange(0), default=0.0, show_default=True, help="By how much it must be better."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--epochs", type=click.IntRange(1), help="Instead of what the task's recipe says.")
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--publish", is_flag=True, help="Sign an accepted candidate as the next release.")
@click.option("--rollout", "waves", help="And take it to all vehicles in these waves, for example 1,50%,100%.")
@click.option("--background", is_flag=True, help="Leave it to the jobs process of 'roadloop up'.")
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

    from roadloop_cloud.jobs import run_job, worker_name
    from roadloop_cloud.retrain.pipeline import KIND

    spec = msgspec.to_builtins(_spec(options))
    if background:
        job = app.jobs.add(KIND, spec)
        output.result({"job": job}, f"queued as job {job}")
        return
    job = app.jobs.add(KIND, spec, owner=worker_name())
    with output.steps(f"Retraining {options['task']}") as step:
        try:
            result = run_job(app.jobs, app.jobs.held(job), app.retraining.run, step)
        except (KeyboardInterrupt, click.Abort):
            app.jobs.cancel(job)
            raise
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


def _spec(options: dict[str, Any]) -> Any:
    from roadloop_cloud.retrain.pipeline import RetrainSpec, RolloutRequest
    from roadloop_cloud.training.spec import DataSource

    base, labels, waves = options["base"], options["labels"], options["waves"]
    return RetrainSpec(
        task=options["task"],
        data=str(options["data"].resolve()),
        snapshot=options["snapshot"],
        labels=None if labels is None else str(labels.resolve()),
        base=None if base is None else DataSource(str(base.resolve()), options["base_part"]),
        incumbent=options["incumbent"],
        version=options["version"],
        margin=options["margin"],
        seed=options["seed"],
        epochs=options["epochs"],
        threads=options["threads"],
        publish=options["publish"] or waves is not None,
        rollout=None if waves is None else RolloutRequest(waves=tuple(waves.split(","))),
    )


def _keys(result: dict[str, Any]) -> list[str]:
    return sorted(result["candidate"]["by_variant"])


def _row(side: str, figures: dict[str, Any], keys: list[str]) -> list[str | None]:
    values = (figures["by_variant"].get(key) for key in keys)
    return [side, figures["version"], *(None if value is None else f"{value:.5g}" for value in values)]
