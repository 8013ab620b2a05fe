"""`roadloop models compress` and `roadloop models compare`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from roadloop_cloud.cli.options import with_output
from roadloop_cloud.cli.output import Output, size, table

if TYPE_CHECKING:
    from roadloop_cloud.training.compress.compare import VariantReport
    from roadloop_models.bundle import Bundle

_BUNDLE = click.Path(path_type=Path, exists=True, file_okay=False)
_DATA = click.option("--data", required=True, type=_BUNDLE, help="Data folder, the one that holds gtsrb32/ and others.")
_REPORT = click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write the report here, JSON.")


@click.command()
@click.argument("bundle", metavar="BUNDLE", type=_BUNDLE)
@_DATA
@click.option("--method", required=True, type=click.Choice(["distil", "prune", "qat", "quantize"]))
@click.option("--version", required=True, help="Name of the new version.")
@click.option("--output", "directory", required=True, type=click.Path(path_type=Path), help="Bundle to write.")
@click.option(
    "--share",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.25,
    show_default=True,
    help="Of BUNDLE's parameters, to keep at most (distil, prune).",
)
@click.option("--temperature", type=click.FloatRange(1, 50), default=4.0, show_default=True, help="Softens answers.")
@click.option(
    "--soft-share",
    type=click.FloatRange(0, 1),
    default=0.8,
    show_default=True,
    help="Of the loss, what is the teacher's answer and not the label.",
)
@click.option("--hints", type=click.FloatRange(0), default=1.0, show_default=True, help="Weight of attention maps.")
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    type=_BUNDLE,
    help="One more bundle whose answers are averaged with BUNDLE's (distil, prune); may be given again.",
)
@click.option(
    "--qat-above",
    type=click.FloatRange(0),
    help="Train on quantization-aware where int8 loses more than this on validation rows (0.001: 0.1 points).",
)
@click.option("--part", type=click.Choice(["all", "starter", "rest"]), default="all", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--epochs", type=click.IntRange(1), help="Instead of what the method's recipe says.")
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True)
@_REPORT
@with_output
def compress(
    *, output: Output, bundle: Path, data: Path, version: str, directory: Path, report: Path | None, **options: Any
) -> None:
    """Make a smaller model of BUNDLE's, and compare the two file by file.

    \b
    Example:
      roadloop models compress ./fleet/models/traffic-sign/factory-1 --data ./data --method distil --share 0.25 \\
        --version student-1 --output ./student-1
    """
    from roadloop_cloud.training.compress.make import compress_bundle
    from roadloop_cloud.training.compress.settings import Compression
    from roadloop_cloud.training.spec import TrainingProgress
    from roadloop_models.bundle import Bundle

    parent = Bundle.open(bundle)
    settings = Compression(
        method=options["method"],
        share=options["share"],
        temperature=options["temperature"],
        soft_share=options["soft_share"],
        hint_weight=options["hints"],
        teachers=tuple(str(path) for path in options["teachers"]),
    )
    with output.steps(f"Compressing {parent.manifest.task} {parent.manifest.version}") as step:

        def show_progress(now: TrainingProgress) -> None:
            step(f"{now.stage} {now.message}".strip(), now.done / now.total if now.total else None)

        result = compress_bundle(
            parent,
            data,
            version,
            directory,
            settings,
            part=options["part"],
            seed=options["seed"],
            epochs=options["epochs"],
            qat_above=options["qat_above"],
            threads=options["threads"],
            on_progress=show_progress,
        )
    _show(output, [parent, Bundle.open(Path(result.bundle))], data, report, f"written to {result.bundle}")


@click.command()
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True, type=_BUNDLE)
@_DATA
@_REPORT
@with_output
def compare(output: Output, bundles: tuple[Path, ...], data: Path, report: Path | None) -> None:
    """Compare bundles of one task file by file: size, latency here, the task's figure, difference from fp32.

    \b
    Example:
      roadloop models compare ./fleet/models/traffic-sign/factory-1 ./student-1 --data ./data
    """
    from roadloop_models.bundle import Bundle

    opened = [Bundle.open(path) for path in bundles]
    tasks = {bundle.manifest.task for bundle in opened}
    if len(tasks) > 1:
        raise click.UsageError(f"bundles of {', '.join(sorted(tasks))}: only those of one task can be compared")
    _show(output, opened, data, report)


def _show(output: Output, bundles: "list[Bundle]", data: Path, report: Path | None, *lines: str) -> None:
    from roadloop_cloud.training.compress.compare import compare as compare_bundles

    with output.steps("Comparing") as step:
        rows = compare_bundles(bundles, data, lambda done, total: step("compare", done / total))
    found = {"task": bundles[0].manifest.task, "variants": [asdict(row) for row in rows]}
    if report is not None:
        report.write_text(json.dumps(found, indent=1) + "\n")
    output.result(found, _table(bundles[0].manifest.task, rows), *lines)


def _table(task_name: str, rows: "list[VariantReport]") -> Table:
    from roadloop_models.tasks import get_task

    metric = get_task(task_name).metric
    first = rows[0].version
    return table(
        ("version", "variant", "parameters", "size", "us", metric, "differs from its fp32", f"from {first}'s"),
        [
            (
                row.version,
                row.key,
                None if row.parameters is None else f"{row.parameters:,}",
                size(row.size_bytes),
                f"{row.latency_us:.0f}",
                f"{row.metrics[metric]:.5g}",
                _percent(row.differs),
                _percent(row.differs_from_first),
            )
            for row in rows
        ],
        title=task_name,
    )


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.2f} %"
