"""`roadloop loop`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from roadloop_cloud.app import Application
from roadloop_cloud.cli.duration import Duration
from roadloop_cloud.cli.options import with_application
from roadloop_cloud.cli.output import Output, age, details, seconds, size, table
from roadloop_cloud.cli.retrain_options import retrain_options, retrain_spec
from roadloop_cloud.store.database import now_utc

if TYPE_CHECKING:
    from collections.abc import Mapping

    from roadloop_cloud.loop.decide import Decision
    from roadloop_cloud.loop.policy import LoopPolicy
    from roadloop_cloud.loop.service import LoopStatus
    from roadloop_cloud.store.loop_tables import LoopDecision


@click.group()
def command() -> None:
    """Let tasks learn by themselves: when, how often, and what it may cost.

    \b
    Example:
      roadloop loop status
    """


@command.command()
@click.argument("task")
@click.option("--drift/--no-drift", default=True, show_default=True, help="Begin at an alarm of drift.")
@click.option("--new-labels", type=click.IntRange(1), help="Begin when so many labels have come.")
@click.option("--every", "every_s", type=Duration(), help="Begin so long after the last one began.")
@click.option("--cool-down", "cool_down_s", type=Duration(), default="6h", show_default=True, help="Rest between two.")
@click.option(
    "--per", "period_s", type=Duration(), default="7d", show_default=True, help="The budget is for this long."
)
@click.option("--max-generations", "generations", type=click.IntRange(1), default=7, show_default=True)
@click.option("--max-cpu", "cpu_s", type=Duration(), help="Processor time that they may take together.")
@click.option("--max-bytes", "delivered_bytes", type=click.IntRange(1), help="Bytes that vehicles may fetch for them.")
@click.option(
    "--min-free", "min_free_bytes", type=click.IntRange(0), default=1_000_000_000, show_default=True,
    help="Bytes that the workspace's disk must have free.",
)  # fmt: skip
@retrain_options
@with_application
def enable(app: Application, output: Output, task: str, **options: Any) -> None:
    """Let TASK learn by itself; what was set before is replaced, what was spent still counts.

    Any trigger is enough to begin. Each generation is asked for what the options of 'roadloop retrain' say; without
    --publish or --rollout candidates are only registered.

    \b
    Example:
      roadloop loop enable traffic-speed --data ./data --every 1d --max-cpu 4h --rollout 1,50%,100%
    """
    from roadloop_cloud.loop.policy import Budget, LoopPolicy, Triggers
    from roadloop_models.tasks import get_task

    def taken(*names: str) -> dict[str, Any]:
        return {name: options.pop(name) for name in names}

    get_task(task)
    triggers = Triggers(**taken("drift", "new_labels", "every_s"))
    budget = Budget(**taken("period_s", "generations", "cpu_s", "delivered_bytes"))
    rest = taken("cool_down_s", "min_free_bytes")
    policy = LoopPolicy(retrain=retrain_spec(task=task, **options), triggers=triggers, budget=budget, **rest)
    app.retraining.check(policy.retrain)
    app.loops.enable(policy)
    output.result(_policy_json(policy), f"{task} learns by itself: {_triggers(policy)}")


@command.command()
@click.argument("task")
@with_application
def disable(app: Application, output: Output, task: str) -> None:
    """Begin no more generations of TASK by itself. One that runs comes to its end; 'jobs cancel' ends it.

    \b
    Example:
      roadloop loop disable traffic-speed
    """
    app.loops.disable(task)
    output.result({"task": task, "enabled": None}, f"{task} learns only when a person asks for it")


@command.command()
@click.argument("task")
@with_application
def run(app: Application, output: Output, task: str) -> None:
    """Ask for a generation of TASK now. It does not wait for a trigger or to cool down, but for all else.

    \b
    Example:
      roadloop loop run traffic-speed
    """
    decision = app.loops.ask(task)
    output.result({"task": task, **asdict(decision)}, f"{task}: {_said(decision)}")


@command.command()
@with_application
def status(app: Application, output: Output) -> None:
    """Show every loop: what was decided last and why, what it has made and spent.

    \b
    Example:
      roadloop loop status
    """
    found = app.loops.status()
    output.result([_status_json(one) for one in found], *(_shown(one) for one in found))
    if not found:
        output.note("no task learns by itself; 'roadloop loop enable' lets one")


@command.command()
@click.argument("task", required=False)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@with_application
def history(app: Application, output: Output, task: str | None, limit: int) -> None:
    """Show what was decided and why, the newest first; of all tasks, or of TASK.

    \b
    Example:
      roadloop loop history traffic-speed --limit 5
    """
    found, now = app.loops.decisions(task, limit), now_utc()
    rows = [(age(one.at, now), one.task, one.action, one.why, one.detail, one.job_id) for one in found]
    output.result([_decision_json(one) for one in found], table(("when", "task", "did", "why", "", "job"), rows))


def _triggers(policy: "LoopPolicy") -> str:
    triggers = policy.triggers
    parts = ["at an alarm of drift"] if triggers.drift else []
    if triggers.new_labels is not None:
        parts.append(f"at {triggers.new_labels} new labels")
    if triggers.every_s is not None:
        parts.append(f"every {seconds(triggers.every_s)}")
    return ", ".join(parts) or "only when a person asks"


def _said(decision: "Decision | LoopDecision") -> str:
    words = {"start": "begins", "wait": "waits", "rest": "rests"}
    return f"{words[decision.action]} ({decision.why}): {decision.detail}"


def _shown(one: "LoopStatus") -> Any:
    now = now_utc()
    budget = one.policy.budget
    spent = [turn for turn in one.generations if (now - turn.began).total_seconds() < budget.period_s]
    cpu_s, sent = sum(turn.cpu_s for turn in spent), sum(turn.delivered_bytes for turn in spent)
    fields = {
        "learns": _triggers(one.policy) if one.enabled else "only when a person asks",
        "now": None if one.decision is None else _said(one.decision),
        "since": None if one.decision is None else age(one.decision.at, now),
        "asked for": None if one.asked is None else age(one.asked, now),
        "generations": f"{len(one.generations)}, {sum(turn.published for turn in one.generations)} published",
        "last job": one.job,
        **_did(one.did),
        f"in {seconds(budget.period_s)}": f"{len(spent)} of {budget.generations} generations",
        "processor time": seconds(cpu_s) + ("" if budget.cpu_s is None else f" of {seconds(budget.cpu_s)}"),
        "to vehicles": size(sent) + ("" if budget.delivered_bytes is None else f" of {size(budget.delivered_bytes)}"),
    }
    return details(fields, title=one.task)


def _did(did: "Mapping[str, Any]") -> dict[str, str | None]:
    """What the steps of the last generation came to, in words."""
    taught, rounded, explained = did["taught"], did["quantization_aware"], did["explained"]
    shown: dict[str, str | None] = dict.fromkeys(("taught", "int8", "explained"))
    if taught is not None:
        shown["taught"] = f"{taught['labelled']} items by {taught['by']}, {taught['disagreed']} against the vehicle"
    if rounded is not None:
        then = "trained on quantization-aware" if rounded["trained_on"] else "not why it was refused"
        shown["int8"] = f"lost {rounded['lost']:.4g}, allowed {rounded['allowed']:.4g}: {then}"
    if explained is not None:
        shown["explained"] = f"{explained['rows']} rows" if explained["rows"] else f"not: {explained['why']}"
    return shown


def _policy_json(policy: "LoopPolicy") -> dict[str, Any]:
    import msgspec

    made: dict[str, Any] = msgspec.to_builtins(policy)
    return made


def _decision_json(one: "LoopDecision") -> dict[str, Any]:
    return {
        "task": one.task,
        "at": one.at,
        "action": one.action,
        "why": one.why,
        "detail": one.detail,
        "job": one.job_id,
    }


def _status_json(one: "LoopStatus") -> dict[str, Any]:
    return {
        "task": one.task,
        "enabled": one.enabled,
        "asked": one.asked,
        "policy": _policy_json(one.policy),
        "decision": None if one.decision is None else _decision_json(one.decision),
        "generations": [asdict(turn) for turn in one.generations],
        "job": one.job,
        "did": dict(one.did),
    }
