"""`roadloop models gate`, `explain` and `card`: what a version is worth, what it looks at, and both as a page."""

import sys
import tempfile
from pathlib import Path

import click

from roadloop_cloud.app import Application
from roadloop_cloud.cli.options import DATA_OPTION, with_application
from roadloop_cloud.cli.output import Output, table


@click.command()
@click.argument("task")
@click.argument("candidate")
@click.argument("incumbent", required=False)
@DATA_OPTION
@click.option("--margin", type=click.FloatRange(0), help="By how much it must be better; else as roadloop.toml has it.")
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    help="Hardware profile, a packaged one or a file, whose budgets count; else those of the fleet's vehicles.",
)
@with_application
def gate(
    *,
    app: Application,
    output: Output,
    task: str,
    candidate: str,
    incumbent: str | None,
    data: Path,
    margin: float | None,
    profiles: tuple[str, ...],
) -> None:
    """Whether registered version CANDIDATE may replace INCUMBENT (else: what the fleet runs), and why not.

    The quantized files of both are run with the vehicle's runner on the test rows of --data, which neither may have
    been trained on. Exit code 1 where a gate refuses it.

    \b
    Example:
      roadloop models gate traffic-sign retrain-7 factory-1 --data ./data --profile x86-64-onnx
    """
    import msgspec

    from roadloop_cloud.gate.records import Record
    from roadloop_cloud.gate.service import Judged
    from roadloop_cloud.identity.provisioning import load_profile

    against = incumbent or app.releases.incumbent(task).version
    service = app.gate
    if profiles:
        texts = {name: load_profile(name).text for name in profiles}
        service = service.with_profiles(texts)
    with tempfile.TemporaryDirectory(prefix="roadloop-gate-") as scratch, output.steps(f"Judging {candidate}") as step:
        sides = []
        for name in (against, candidate):
            bundle, folder = app.models.bundle(task, name), Path(scratch) / name
            sides.append(Judged(bundle, service.examine(bundle, data, folder, step), folder))
        step("judge", None)
        verdict = service.judge(sides[0], sides[1], data, margin=margin)
        app.evaluations.keep(
            Record(
                task=task,
                version=candidate,
                data=str(data.resolve()),
                incumbent=against,
                figures=dict(sides[1].figures),
                verdict=verdict,
            ),
            sides[1].folder,
        )
        app.models.record_evaluation(task, candidate, msgspec.to_builtins(dict(sides[1].figures)))
    rows = [("passed" if one.passed else "REFUSED", one.gate, one.detail) for one in verdict.gates]
    output.result(
        {
            "task": task,
            "candidate": candidate,
            "incumbent": against,
            "accepted": verdict.accepted,
            "refusals": verdict.refusals,
            "gates": msgspec.to_builtins(verdict.gates),
        },
        table(("", "gate", "found"), rows, title=f"{task}: {candidate} against {against}"),
        f"{candidate}: {'accepted' if verdict.accepted else 'refused'}",
    )
    if not verdict.accepted:
        sys.exit(1)


@click.command()
@click.argument("task")
@click.argument("version")
@DATA_OPTION
@click.option("--rows", "count", type=click.IntRange(1, 32), default=6, show_default=True, help="How many test rows.")
@click.option("--runtime", type=click.Choice(["onnx", "tflite"]), help="Which quantized file; else the first.")
@with_application
def explain(
    *, app: Application, output: Output, task: str, version: str, data: Path, count: int, runtime: str | None
) -> None:
    """What of its input registered VERSION looks at: half of the rows are its worst, the others drawn.

    Parts of the input are hidden from the quantized file, and the gradients of the training weights are integrated;
    both are kept with the version's evaluation and shown in its card.

    \b
    Example:
      roadloop models explain traffic-sign factory-1 --data ./data
    """
    from roadloop_cloud.explain.service import PICTURE
    from roadloop_cloud.explain.service import explain as explain_model
    from roadloop_cloud.training.evaluate import evaluate_variant

    bundle = app.models.bundle(task, version)
    variant = bundle.variant(runtime, "int8")
    folder = app.evaluations.of(task, version)
    with output.steps(f"Explaining {task} {version}") as step:
        step("evaluate", None)
        evaluation = evaluate_variant(bundle, variant, data)
        found = explain_model(bundle, variant, data, evaluation, folder, count=count, step=step)
    rows = [(row.title, f"{float(missed):.2%}") for row, missed in zip(found.rows, found.missed, strict=True)]
    output.result(
        {
            "task": task,
            "version": version,
            "variant": variant.key,
            "picture": folder / PICTURE,
            "rows": [
                {"index": row.index, "title": row.title, "missed": float(missed)}
                for row, missed in zip(found.rows, found.missed, strict=True)
            ],
        },
        table(("row", "gradients miss"), rows, title=f"{task} {version} {variant.key}"),
        f"picture: {folder / PICTURE}",
        f"Next: roadloop models card {task} {version}",
    )


@click.command()
@click.argument("task")
@click.argument("version")
@click.option(
    "--output",
    "target",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to write it; else beside its evaluation.",
)
@with_application
def card(app: Application, output: Output, task: str, version: str, target: Path | None) -> None:
    """Write the model card of registered VERSION as a page with pictures, from what is known of it here.

    \b
    Example:
      roadloop models card traffic-sign factory-1 --output ./card
    """
    from roadloop_cloud.cards.card import write_card

    folder = app.evaluations.of(task, version)
    written = write_card(app.models.bundle(task, version), app.evaluations, target or folder / "card")
    output.result(
        {"task": task, "version": version, "card": written.page, "pictures": list(written.pictures)},
        f"{written.page} ({len(written.pictures)} pictures)",
    )
