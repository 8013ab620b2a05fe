"""`roadloop models train` and `roadloop models search`."""

from pathlib import Path
from typing import Any

import click

from roadloop_cloud.app import Application
from roadloop_cloud.cli.job_runs import BACKGROUND_OPTION, queue_job, run_job_here
from roadloop_cloud.cli.options import DATA_OPTION, TRAINING_OPTIONS, with_application, with_options, with_output
from roadloop_cloud.cli.output import Output, details, table

_with_training_options = with_options(
    click.option("--task", required=True, help="What the model is for."),
    DATA_OPTION,
    click.option(
        "--part",
        type=click.Choice(["all", "starter", "rest"]),
        default="all",
        show_default=True,
        help="Which training rows of the data folder.",
    ),
    *TRAINING_OPTIONS,
    click.option("--folds", type=click.IntRange(2, 20), help="Validate on each of so many parts of the rows in turn."),
)


@click.command()
@_with_training_options
@click.option("--version", required=True, help="Name of the new version.")
@click.option("--output", "directory", required=True, type=click.Path(path_type=Path), help="Bundle to write.")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Change the recipe: peak_rate=0.02.")
@click.option("--form", help="Another form of the task's model; traffic-speed: speeds-alone, without the time of day.")
@click.option("--with-fp32", is_flag=True, help="Write an fp32 variant too.")
@with_output
def train(
    *, output: Output, task: str, data: Path, version: str, directory: Path, changes: tuple[str, ...], **options: Any
) -> None:
    """Train a model from nothing, quantize it for both runtimes, and write its bundle.

    Killed or interrupted, the same command goes on after the last epoch.

    \b
    Example:
      roadloop models train --task traffic-speed --data ./data --version mine-1 --output ./mine-1
    """
    from roadloop_cloud.training.eta import in_words
    from roadloop_cloud.training.make import train_bundle
    from roadloop_cloud.training.space import parse_changes
    from roadloop_cloud.training.spec import TrainingProgress

    with output.steps(f"Training {task}") as step:

        def show_progress(now: TrainingProgress) -> None:
            step(in_words(now), now.done / now.total if now.total else None)

        result = train_bundle(
            task, data, version, directory, changes=parse_changes(changes), on_progress=show_progress, **options
        )
    output.result(
        {"bundle": result.bundle, "rows": result.rows, "metrics": result.metrics, "seconds": result.seconds},
        details({name: f"{value:.5g}" for name, value in result.metrics.items()}, title=f"{task} {version}"),
        f"written to {result.bundle}",
    )


@click.command()
@_with_training_options
@click.option(
    "--space",
    multiple=True,
    metavar="NAME=VALUES",
    help="What may change: peak_rate=0.001..0.1 (drawn evenly in the logarithm) or weight_decay=0,0.01. Also "
    "ema_decay, warmup_share, held_rate, clip_norm, epochs.",
)
@click.option(
    "--trials", type=click.IntRange(1, 200), default=1, show_default=True, help="The first is the task's own recipe."
)
@click.option(
    "--parent",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Bundle to start from; else from nothing.",
)
@BACKGROUND_OPTION
@with_application
def search(*, app: Application, output: Output, background: bool, **options: Any) -> None:
    """Try other recipes for a task by validation alone, fold by fold: a job that goes on after a kill.

    With one trial and --folds it is a cross-validation of the task's own recipe. No test row is looked at.

    \b
    Example:
      roadloop models search --task traffic-speed --data ./data --folds 3 --trials 8 --space peak_rate=0.001..0.1
    """
    import msgspec

    from roadloop_cloud.training.search import KIND
    from roadloop_cloud.training.space import in_words

    spec = msgspec.to_builtins(_search_spec(**options))
    if background:
        queue_job(app, output, KIND, spec)
        return
    job, found = run_job_here(app, output, KIND, spec, app.searches.run, title=f"Searching for {options['task']}")
    rows = [
        (
            "*" if number == found["best"] else "",
            in_words(trial["changes"]),
            f"{trial['mean']:.5g}",
            f"{trial['deviation']:.2g}" if len(trial["scores"]) > 1 else None,
            ", ".join(str(epoch) for epoch in trial["best_epochs"]),
        )
        for number, trial in enumerate(found["trials"])
    ]
    columns = ("", "changes", "mean", "deviation", "best epochs")
    chosen = "".join(f" --set {name}={value:g}" for name, value in found["trials"][found["best"]]["changes"].items())
    output.result(
        {"job": job, **found},
        table(columns, rows, title=f"{found['score']} on validation rows, lower is better"),
        f"Next: roadloop models train --task {options['task']} --data {options['data']}{chosen} --version NAME "
        "--output BUNDLE",
    )


def _search_spec(*, data: Path, part: Any, space: tuple[str, ...], parent: Path | None, **rest: Any) -> Any:
    """What was asked for; `rest` are fields of SearchSpec by their names. Raises ConfigError for the space."""
    from roadloop_cloud.training.search import SearchSpec
    from roadloop_cloud.training.space import parse_space
    from roadloop_cloud.training.spec import DataSource

    parse_space(space)
    return SearchSpec(
        data=DataSource(str(data.resolve()), part),
        space=space,
        parent=None if parent is None else str(parent.resolve()),
        **rest,
    )
