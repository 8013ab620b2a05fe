"""`roadloop jobs`."""

from typing import TYPE_CHECKING, Any

import click

from roadloop_cloud.app import Application
from roadloop_cloud.cli.options import with_application
from roadloop_cloud.cli.output import Output, age, details, table
from roadloop_cloud.store.database import now_utc

if TYPE_CHECKING:
    from roadloop_cloud.store.fleet_tables import Job


@click.group()
def command() -> None:
    """List, show, cancel and retry jobs that run in the background.

    \b
    Example:
      roadloop jobs list
    """


@command.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@with_application
def list_(app: Application, output: Output, limit: int) -> None:
    """List jobs, the newest first.

    \b
    Example:
      roadloop jobs list --limit 5
    """
    found, now = app.jobs.list(limit), now_utc()
    shown = [(job.id, job.kind, job.state, age(job.created, now), _word(job)) for job in found]
    output.result([_as_json(job) for job in found], table(("job", "kind", "state", "created", "says"), shown))


@command.command()
@click.argument("job", type=int)
@with_application
def show(app: Application, output: Output, job: int) -> None:
    """Show one job: its steps, how far it is, what came of it.

    \b
    Example:
      roadloop jobs show 7
    """
    row, now = app.jobs.get(job), now_utc()
    fields = {
        "kind": row.kind,
        "state": row.state,
        "created": age(row.created, now),
        "attempts": row.attempts,
        "steps done": ", ".join(row.steps) or None,
        "says": _word(row),
    }
    output.result(_as_json(row), details(fields, title=f"job {row.id}"))


@command.command()
@click.argument("job", type=int)
@with_application
def cancel(app: Application, output: Output, job: int) -> None:
    """Cancel a job. One that runs stops at the next word it would say.

    \b
    Example:
      roadloop jobs cancel 7
    """
    app.jobs.cancel(job)
    output.result(_as_json(app.jobs.get(job)), f"job {job} is cancelled")


@command.command()
@click.argument("job", type=int)
@with_application
def retry(app: Application, output: Output, job: int) -> None:
    """Queue a failed job again, once what was wrong is put right. It goes on after the last step that was done.

    \b
    Example:
      roadloop jobs retry 7
    """
    app.jobs.retry(job)
    output.result(_as_json(app.jobs.get(job)), f"job {job} is queued again")


def _word(job: "Job") -> str | None:
    if job.error is not None and job.state != "done":
        return f"{job.error['code']}: {job.error['detail']}"
    if job.progress is None or job.state != "running":
        return None
    done = job.progress["done"]
    return f"{job.progress['text']}" + ("" if done is None else f" {done:.0%}")


def _as_json(job: "Job") -> dict[str, Any]:
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state,
        "attempts": job.attempts,
        "spec": job.spec,
        "steps": job.steps,
        "progress": job.progress,
        "result": job.result,
        "error": job.error,
        "created": job.created,
        "finished": job.finished,
    }
