"""`roadloop label`."""

import getpass
from pathlib import Path
from typing import Any

import click

from roadloop_cloud.app import Application
from roadloop_cloud.cli.job_runs import BACKGROUND_OPTION, queue_job, run_job_here
from roadloop_cloud.cli.options import with_application
from roadloop_cloud.cli.output import Output, age, table
from roadloop_cloud.store.database import now_utc

_FORMATS = click.Choice(["csv", "cvat", "label-studio"])


@click.group()
def command() -> None:
    """Ask people and teachers what captured items show, and keep what they say.

    \b
    Example:
      roadloop label export --task traffic-sign --format cvat ./to-label
    """


@command.command("list")
@click.option("--task", help="One item a line, with what counts for it; else who has said how much.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="With --task.")
@with_application
def list_(app: Application, output: Output, task: str | None, limit: int) -> None:
    """List who has labelled how much, or what counts for each item of a task.

    \b
    Example:
      roadloop label list --task traffic-sign
    """
    for entry in app.drift.quarantine_entries():
        if entry.lifted is None:
            output.note(f"nothing of {entry.vehicle} is believed: {entry.reason}")
    if task is None:
        now = now_utc()
        counts = app.labels.counts()
        output.result(
            [vars(count) for count in counts],
            table(
                ("task", "origin", "by", "items", "last"),
                [(count.task, count.origin, count.by, count.items, age(count.last, now)) for count in counts],
            ),
        )
        return
    import msgspec

    verdicts = list(app.labels.verdicts(task).items())[:limit]
    shown = [
        (word.about or item[:12], _said(word.value), word.origin, word.by, word.confidence, _against(verdict.against))
        for item, verdict in verdicts
        for word in (verdict.word,)
    ]
    output.result(
        [{"item": item, **msgspec.to_builtins(verdict)} for item, verdict in verdicts],
        table(("item", "label", "origin", "by", "confidence", "against it"), shown),
    )


@command.command("export")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--task", required=True, help="Whose items.")
@click.option("--format", "form", type=_FORMATS, default="csv", show_default=True)
@click.option("--limit", type=click.IntRange(1), help="At most so many, the most doubtful first.")
@click.option("--again", is_flag=True, help="Also what a person has labelled already.")
@with_application
def export(app: Application, output: Output, folder: Path, task: str, **options: Any) -> None:
    """Write captured items for a labelling tool, the most doubtful first, with what is believed so far.

    \b
    Example:
      roadloop label export --task traffic-sign --format label-studio --limit 200 ./to-label
    """
    from roadloop_cloud.labels.exchange import get_format

    form = get_format(options["form"])
    exported = app.labelling.ask(task, form, folder, options["limit"], options["again"])
    left_out = ", ".join(f"{reason} {count}" for reason, count in exported.left_out.items())
    output.result(
        {"file": exported.file, "items": exported.items, "left_out": exported.left_out},
        f"{exported.items} items in {exported.file}" + (f"; left out: {left_out}" if left_out else ""),
    )


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--task", required=True, help="Whose items.")
@click.option("--format", "form", type=_FORMATS, default="csv", show_default=True)
@click.option("--by", help="Who labelled, where the file does not say; else the user of this shell.")
@with_application
def import_(app: Application, output: Output, file: Path, task: str, **options: Any) -> None:
    """Keep what people answered. The same file twice changes nothing.

    \b
    Example:
      roadloop label import --task traffic-sign --format cvat --by anna annotations.xml
    """
    from roadloop_cloud.labels.exchange import get_format

    heard = app.labelling.hear(task, get_format(options["form"]), file, options["by"] or getpass.getuser())
    unknown = "".join(
        f"; {len(heard.unknown)} of items that were never captured, the first {item[:12]}…"
        for item in heard.unknown[:1]
    )
    output.result(
        {"new": heard.new, "known": heard.known, "unknown": heard.unknown},
        f"{heard.new} new labels, {heard.known} known before" + unknown,
    )


@command.command()
@click.option("--task", required=True, help="Whose items.")
@click.option(
    "--teacher", "teachers", multiple=True, help="A registered version; several decide together. Else the best."
)
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True)
@BACKGROUND_OPTION
@with_application
def teach(app: Application, output: Output, background: bool, **options: Any) -> None:
    """Have larger models label what was captured. Where they disagree with the vehicle, people are asked first.

    \b
    Example:
      roadloop label teach --task traffic-sign --teacher large-1 --teacher large-2
    """
    import msgspec

    from roadloop_cloud.labels.teacher import KIND, TeachSpec

    spec = msgspec.to_builtins(TeachSpec(**options))
    if background:
        queue_job(app, output, KIND, spec)
        return
    _, result = run_job_here(app, output, KIND, spec, app.teaching.run, title=f"Labelling {spec['task']}")
    output.result(
        result,
        f"{' + '.join(result['teachers'])}: {result['labelled']} items labelled, {result['disagreed']} against the "
        f"vehicle; {result['damaged']} could not be read",
        *_set_apart(result),
    )


@command.command()
@BACKGROUND_OPTION
@with_application
def measure(app: Application, output: Output, background: bool) -> None:
    """Label by what happened after forecasts, and by GNSS where it was good. 'roadloop up' does it every hour.

    \b
    Example:
      roadloop label measure
    """
    from roadloop_cloud.labels.measuring import KIND

    if background:
        queue_job(app, output, KIND, {})
        return
    _, result = run_job_here(app, output, KIND, {}, app.measuring.run, title="Measuring")
    rows = [(task, count) for task, count in result.items() if task != "set_apart"]
    output.result(result, table(("task", "new labels"), rows), *_set_apart(result))


def _set_apart(result: dict[str, Any]) -> list[str]:
    return [f"{vehicle} is set apart now; 'roadloop drift quarantine' says why" for vehicle in result["set_apart"]]


def _said(value: Any) -> str:
    from roadloop_cloud.labels.words import BoxesValue, ClassValue

    if isinstance(value, ClassValue):
        told = ", ".join(word for word in (value.track, value.weather) if word is not None)
        return f"{value.name} ({told})" if told else value.name
    if isinstance(value, BoxesValue):
        return ", ".join(box.name for box in value.boxes)
    return ", ".join(f"{name} {amount:g}" for name, amount in value.values.items())


def _against(words: Any) -> str | None:
    return ", ".join(f"{word.by}: {_said(word.value)}" for word in words) or None
