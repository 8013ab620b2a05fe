"""`roadloop drift`."""

import math
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import RenderableType

from roadloop_cloud.app import Application
from roadloop_cloud.cli.options import with_application, with_output
from roadloop_cloud.cli.output import Output, age, table

if TYPE_CHECKING:
    from roadloop_cloud.drift.decide import Finding
    from roadloop_cloud.drift.picture import Portrait
    from roadloop_cloud.drift.quarantine import Quarantined
    from roadloop_cloud.drift.service import Alarm, Look
    from roadloop_models.tasks import Part

_SHOWN = 20


class _LookByDefault(click.Group):
    """`roadloop drift` alone, or with options only, is `roadloop drift look`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        asks_help = bool(set(args[:1]) & set(ctx.help_option_names))
        if not asks_help and (not args or args[0].startswith("-")):
            args = ["look", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_LookByDefault)
def command() -> None:
    """See what the fleet sees differently from where its releases were made, and who is not believed.

    \b
    Example:
      roadloop drift --task traffic-sign
    """


@command.command()
@click.option("--task", help="Only of this task.")
@click.option("--all", "everything", is_flag=True, help="Every signal, and alarms that have ended too.")
@with_application
def look(*, app: Application, output: Output, task: str | None, everything: bool) -> None:
    """Show drift: which signal, which cohort, since when. The same as 'roadloop drift' alone.

    It may be asked as often as you like: a look ends with a whole period, and its false alarms are budgeted.

    \b
    Example:
      roadloop drift look --all
    """
    from roadloop_cloud.store.database import now_utc

    seen = app.drift.look()
    alarms = app.drift.alarms(task, ended=everything)
    findings = [finding for finding in seen.findings if task in (None, finding.cohort.task)]
    shown = findings if everything else [finding for finding in findings if not finding.cohort.tag][:_SHOWN]
    distrusted = [entry for entry in app.drift.quarantine_entries() if entry.lifted is None]
    data = {
        "ended": seen.ended,
        "alarms": [_alarm_json(alarm) for alarm in alarms],
        "findings": [_finding_json(finding) for finding in findings],
        "without_reference": list(seen.unreferenced),
        "set_apart": list(seen.set_apart),
        "quarantined": [vars(entry) for entry in distrusted],
    }
    believed_no_more = [f"nothing of {entry.vehicle} is believed: {entry.reason}" for entry in distrusted]
    output.result(data, *_overview(seen, alarms, shown, len(findings), now_utc()), *believed_no_more)


@command.command()
@click.argument("slot")
@click.option("--signal", help="Only this signal.")
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), help="Draw it: a .png, .svg or .pdf.")
@with_application
def show(*, app: Application, output: Output, slot: str, signal: str | None, picture: Path | None) -> None:
    """Show the signals of one slot (or task): how far from the reference, and what the forecasts' errors are.

    \b
    Example:
      roadloop drift show sign --picture drift.png
    """
    from roadloop_cloud.drift.picture import check_picture, draw

    if picture is not None:
        check_picture(picture)
    portraits = app.drift.portraits(slot, signal)
    rows = [_finding_row(portrait.finding) for portrait in portraits]
    shown: list[RenderableType] = [table(_COLUMNS, rows, f"{slot}: the last window against the release's reference")]
    if picture is not None:
        draw(portraits, f"{slot}: signals of the fleet and of its release", picture)
        shown.append(f"drawn in {picture}")
    output.result([_portrait_json(portrait) for portrait in portraits], *shown)


@command.command()
@click.option("--add", help="Set this vehicle apart: nothing is learned from it.")
@click.option("--lift", help="Believe this vehicle again.")
@click.option("--reason", default="by hand", show_default=True, help="Why, for --add.")
@with_application
def quarantine(*, app: Application, output: Output, add: str | None, lift: str | None, reason: str) -> None:
    """Show vehicles that are not believed, set one apart, or let one out.

    A vehicle whose signals lie far outside its cohort is set apart by itself; a person lets it out.

    \b
    Example:
      roadloop drift quarantine --lift van-3
    """
    if add is not None:
        app.drift.quarantine(add, reason)
    if lift is not None:
        app.drift.lift(lift)
    entries = app.drift.quarantine_entries()
    output.result([vars(entry) for entry in entries], _quarantine_table(entries) if entries else "nobody is set apart")


@command.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True, help="Its rows.")
@click.option(
    "--part",
    type=click.Choice(["all", "starter", "rest", "snapshot"]),
    default="all",
    show_default=True,
    help="Which training rows.",
)
@click.option(
    "--output", "target", type=click.Path(path_type=Path), required=True, help="Where the new bundle is written."
)
@with_output
def reference(*, output: Output, bundle: Path, data: Path, part: "Part", target: Path) -> None:
    """Give a bundle that was made without one a reference: how its signals are distributed over rows like its own.

    Bundles that are trained here have one already.

    \b
    Example:
      roadloop drift reference ./bundle --data ./data --output ./bundle-watched
    """
    from roadloop_cloud.training.reference import with_reference
    from roadloop_cloud.training.spec import DataSource
    from roadloop_models.bundle import Bundle
    from roadloop_models.sketches.reference import bundle_reference

    made = with_reference(Bundle.open(bundle), DataSource(str(data), part), target)
    found = bundle_reference(made.directory)
    assert found is not None
    rows = [(name, one.rows, one.blocks, f"{one.rows / one.design_effect:.0f}") for name, one in found.signals.items()]
    signals = {name: {"rows": rows, "blocks": blocks, "worth": float(worth)} for name, rows, blocks, worth in rows}
    output.result(
        {"bundle": str(made.directory), "signals": signals},
        table(("signal", "rows", "blocks", "worth"), rows, f"reference of {made.manifest.task}"),
    )


_COLUMNS = ("signal", "cohort", "vehicles", "rows", "worth", "ks", "alarm above", "psi", "moved by", "mean", "was")


def _overview(
    look: "Look", alarms: "list[Alarm]", findings: "list[Finding]", count: int, now: datetime
) -> list[RenderableType]:
    shown: list[RenderableType] = []
    if alarms:
        columns = ("task", "slot", "signal", "cohort", "since", "raised", "ks", "threshold", "mean", "was", "ended")
        shown.append(table(columns, [_alarm_row(alarm, now) for alarm in alarms], "drift"))
    else:
        shown.append(f"no drift in {count} signals of cohorts, up to {look.ended:%Y-%m-%d %H:%M:%S}")
    if findings:
        rows = [(f"{one.cohort.slot}/{one.signal}", *_finding_row(one)[1:]) for one in findings]
        shown.append(table(_COLUMNS, rows, "the last window against the releases' references, the most changed first"))
    shown += [f"{cohort}: its release was made without a reference" for cohort in look.unreferenced]
    shown += [f"{vehicle} is set apart now; 'roadloop drift quarantine' says why" for vehicle in look.set_apart]
    return shown


def _alarm_row(alarm: "Alarm", now: datetime) -> tuple[object, ...]:
    when = (age(alarm.since, now), age(alarm.raised, now))
    numbers = (f"{alarm.value:.2f}", f"{alarm.threshold:.2f}", f"{alarm.mean:.4g}", f"{alarm.reference_mean:.4g}")
    ended = None if alarm.cleared is None else age(alarm.cleared, now)
    return (alarm.task, alarm.slot, alarm.signal, alarm.cohort.name, *when, *numbers, ended)


def _finding_row(finding: "Finding") -> tuple[object, ...]:
    return (
        finding.signal,
        finding.cohort.name,
        finding.vehicles,
        finding.rows,
        f"{finding.independent_rows:.0f}",
        f"{finding.ks:.2f}" + (" !" if finding.drifted else ""),
        f"{finding.threshold:.2f}" if finding.threshold < 1 else "too little yet",
        f"{finding.psi:.2f}",
        _number(finding.wasserstein),
        _number(finding.mean),
        _number(finding.reference_mean),
    )


def _quarantine_table(entries: "Any") -> RenderableType:
    columns = ("vehicle", "since", "by", "why", "let out")
    return table(columns, [_quarantine_row(entry) for entry in entries])


def _quarantine_row(entry: "Quarantined") -> tuple[object, ...]:
    lifted = None if entry.lifted is None else f"{entry.lifted:%Y-%m-%d %H:%M} by {entry.lifted_by}"
    return (entry.vehicle, f"{entry.since:%Y-%m-%d %H:%M}", entry.by, entry.reason, lifted)


def _alarm_json(alarm: "Alarm") -> dict[str, Any]:
    return {**vars(alarm), "cohort": vars(alarm.cohort)}


def _finding_json(finding: "Finding") -> dict[str, Any]:
    numbers = {name: _known(value) for name, value in vars(finding).items() if isinstance(value, float)}
    return {**vars(finding), **numbers, "cohort": vars(finding.cohort), "drifted": finding.drifted}


def _portrait_json(portrait: "Portrait") -> dict[str, Any]:
    history = [{"ended": ended, "ks": ks, "threshold": limit} for ended, ks, limit in portrait.history]
    return {**_finding_json(portrait.finding), "since": portrait.since, "history": history}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float) -> str | None:
    return f"{value:.4g}" if math.isfinite(value) else None
