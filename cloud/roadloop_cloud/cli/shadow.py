"""`roadloop shadow`."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import RenderableType

from roadloop_cloud.app import Application
from roadloop_cloud.cli.options import with_application
from roadloop_cloud.cli.output import Output, table

if TYPE_CHECKING:
    from roadloop_cloud.rollout.evidence import Criterion
    from roadloop_cloud.rollout.shadow_runs import ShadowedSlot, ShadowRun

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def _with_vehicles(function: FunctionT) -> FunctionT:
    """Add `--vehicle`, `--tag` and `--all`."""
    for option in (
        click.option("--all", "everyone", is_flag=True, help="All vehicles that run the task."),
        click.option("--tag", "tags", multiple=True, help="Vehicles with this tag; repeatable."),
        click.option("--vehicle", "vehicles", multiple=True, help="A vehicle by id; repeatable."),
    ):
        function = option(function)
    return function


@click.group()
def command() -> None:
    """Have a release decide beside what vehicles run. Nothing follows from what it decides.

    \b
    Example:
      roadloop shadow start --task traffic-sign --release 2 --tag pilot
    """


@command.command()
@click.option("--task", required=True, help="What the release is for.")
@click.option("--release", type=click.IntRange(1), required=True, help="Number of the release.")
@_with_vehicles
@click.option(
    "--cpu-share",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.2,
    show_default=True,
    help="Of one core, what it may cost; frames beyond it are skipped.",
)
@with_application
def start(*, app: Application, output: Output, task: str, release: int, cpu_share: float, **chosen: Any) -> None:
    """Put a release in the shadow of what vehicles run.

    \b
    Example:
      roadloop shadow start --task traffic-sign --release 2 --all --cpu-share 0.1
    """
    from roadloop_cloud.fleet.choosing import Chosen
    from roadloop_models.contract.messages import ShadowPolicy

    policy = ShadowPolicy(max_cpu_share=cpu_share)
    vehicles = app.shadows.start(task, release, Chosen(**chosen), policy)
    output.result(
        {"task": task, "release": release, "vehicles": vehicles},
        f"release {release} of {task} goes into the shadow of {', '.join(vehicles)}",
        f"Next: roadloop shadow show --task {task}",
    )


@command.command()
@click.option("--task", required=True, help="Of which task.")
@_with_vehicles
@with_application
def stop(*, app: Application, output: Output, task: str, **chosen: Any) -> None:
    """Take what is in the shadow away. What it showed is kept on the vehicle until another release is there.

    \b
    Example:
      roadloop shadow stop --task traffic-sign --all
    """
    from roadloop_cloud.fleet.choosing import Chosen

    vehicles = app.shadows.stop(task, Chosen(**chosen))
    said = f"nothing of {task} is in the shadow of {', '.join(vehicles)} any more" if vehicles else "there was nothing"
    output.result({"task": task, "vehicles": vehicles}, said)


@command.command()
@click.option("--task", help="Only of this task.")
@click.option("--max-disagreement", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Share of frames.")
@click.option("--max-latency-ratio", type=click.FloatRange(0.1, 15), help="By the latency of what runs.")
@click.option("--max-confidence-loss", type=click.FloatRange(0, 1, max_open=True), help="Mean over the frames.")
@with_application
def show(*, app: Application, output: Output, task: str | None, **bounds: float | None) -> None:
    """Show how releases in the shadow do: what each vehicle says, and what a sequential test concludes.

    It may be asked at any time and as often as you like: the error rates of the verdict hold all the same.

    \b
    Example:
      roadloop shadow show --task traffic-sign --max-disagreement 0.02
    """
    from roadloop_cloud.rollout.evidence import Bound

    bound = Bound(**{name: value for name, value in bounds.items() if value is not None})  # type: ignore[arg-type]
    runs = app.shadows.show(task, bound)
    shown: list[RenderableType] = [part for run in runs for part in _shown(run)]
    output.result([_as_json(run) for run in runs], *(shown or ["nothing is in the shadow of any vehicle"]))


def _shown(run: "ShadowRun") -> list[RenderableType]:
    evidence = run.evidence
    sums = evidence.sums
    head = f"{run.ref.task} {run.ref.version} (release {run.ref.release}): {evidence.verdict}"
    columns = ("vehicle", "slot", "state", "frames", "disagreed", "errors", "skipped", "says")
    slots = table(columns, [_slot_row(shadowed) for shadowed in run.slots])
    criteria = table(
        ("criterion", "seen", "allowed", "verdict", "for it", "against it"),
        [_criterion_row(criterion) for criterion in evidence.criteria],
    )
    return [
        head + (f": {evidence.reason}" if evidence.reason else ""),
        f"{sums.frames} frames of {evidence.vehicles} slots, {sums.disagreed} decided otherwise, {sums.errors} errors",
        slots,
        criteria,
    ]


def _criterion_row(criterion: "Criterion") -> tuple[object, ...]:
    shares = f"{criterion.for_pass:.0%}", f"{criterion.for_fail:.0%}"
    return (criterion.name, _number(criterion.value), f"{criterion.bound:.4g}", criterion.verdict, *shares)


def _slot_row(shadowed: "ShadowedSlot") -> tuple[object, ...]:
    said = shadowed.report
    if said is None:
        return (shadowed.vehicle, shadowed.slot, "not heard of", None, None, None, None, None)
    error = None if said.error is None else f"{said.error.code}: {said.error.detail}"
    counts = (said.frames, said.disagreed, said.errors, said.skipped)
    return (shadowed.vehicle, shadowed.slot, said.state, *counts, error)


def _as_json(run: "ShadowRun") -> dict[str, Any]:
    from roadloop_cloud.rollout.evidence import quantile_us

    evidence = run.evidence
    sums = evidence.sums
    return {
        "task": run.ref.task,
        "release": run.ref.release,
        "version": run.ref.version,
        "verdict": evidence.verdict,
        "reason": evidence.reason,
        "slots_heard": evidence.vehicles,
        "frames": sums.frames,
        "disagreement": _known(sums.disagreement),
        "error_rate": _known(sums.error_rate),
        "latency_ratio": _known(sums.latency_ratio),
        "latency_p50_us": _known(quantile_us(sums.latency_counts, 0.5)),
        "incumbent_latency_p50_us": _known(quantile_us(sums.incumbent_latency_counts, 0.5)),
        "confidence_delta": _known(sums.confidence_delta),
        "skipped": sums.skipped,
        "criteria": [_criterion_json(one) for one in evidence.criteria],
        "slots": [_slot_json(shadowed) for shadowed in run.slots],
    }


def _criterion_json(criterion: "Criterion") -> dict[str, Any]:
    return {**vars(criterion), "value": _known(criterion.value)}


def _slot_json(shadowed: "ShadowedSlot") -> dict[str, Any]:
    said = shadowed.report
    return {
        "vehicle": shadowed.vehicle,
        "slot": shadowed.slot,
        "state": None if said is None else said.state,
        "frames": 0 if said is None else said.frames,
        "disagreed": 0 if said is None else said.disagreed,
        "errors": 0 if said is None else said.errors,
        "skipped": 0 if said is None else said.skipped,
        "error": None if said is None or said.error is None else f"{said.error.code}: {said.error.detail}",
    }


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float) -> str | None:
    return f"{value:.4g}" if math.isfinite(value) else None
