"""What a command does with a job that it asks for: leave it to the jobs process, or run it and wait."""

from typing import TYPE_CHECKING, Any

import click

from roadloop_cloud.app import Application
from roadloop_cloud.cli.output import Output

if TYPE_CHECKING:
    from roadloop_cloud.jobs import Handler

BACKGROUND_OPTION = click.option("--background", is_flag=True, help="Leave it to the jobs process of 'roadloop up'.")


def queue_job(app: Application, output: Output, kind: str, spec: dict[str, Any]) -> None:
    """Leave it to the jobs process, and say so."""
    job = app.jobs.add(kind, spec)
    output.result({"job": job}, f"queued as job {job}")


def run_job_here(
    app: Application, output: Output, kind: str, spec: dict[str, Any], handler: "Handler", *, title: str
) -> tuple[int, dict[str, Any]]:
    """Number and result of the job, which this process runs under `title`; Ctrl-C cancels it."""
    from roadloop_cloud.jobs import run_job, worker_name

    job = app.jobs.add(kind, spec, owner=worker_name())
    with output.steps(title) as step:
        try:
            return job, run_job(app.jobs, app.jobs.held(job), handler, step)
        except (KeyboardInterrupt, click.Abort):
            app.jobs.cancel(job)
            raise
