"""`roadloop models`."""

from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from roadloop_cloud.app import Application
from roadloop_cloud.cli import compress, gate, merge, model_import, train
from roadloop_cloud.cli.options import DATA_OPTION, with_application, with_output, with_request
from roadloop_cloud.cli.output import Output, details, table

if TYPE_CHECKING:
    from roadloop_cloud.registry.deltas import SignedPatch
    from roadloop_cloud.store.fleet_tables import Model, Release
    from roadloop_models.bundle import Bundle


@click.group()
def command() -> None:
    """List, show, evaluate, import, publish, train and compress models.

    \b
    Example:
      roadloop models list
    """


command.add_command(model_import.command)
command.add_command(train.train)
command.add_command(train.search)
command.add_command(compress.compress)
command.add_command(compress.compare)
command.add_command(merge.command)
command.add_command(gate.gate)
command.add_command(gate.explain)
command.add_command(gate.card)


@command.command("list")
@click.option("--task", help="Only models of this task.")
@with_application
def list_(app: Application, output: Output, task: str | None) -> None:
    """List registered models and their releases.

    \b
    Example:
      roadloop models list --task traffic-sign
    """
    releases = app.releases.list(task)
    rows = [as_json(model, releases) for model in app.models.list(task)]
    shown = [(row["task"], row["version"], row["state"], _numbers(row), _deciding(row)) for row in rows]
    output.result(rows, table(("task", "version", "state", "releases", "evaluation"), shown))


@command.command()
@click.argument("task")
@click.argument("version")
@with_application
def show(app: Application, output: Output, task: str, version: str) -> None:
    """Show one model: files, variants, lineage, evaluation.

    \b
    Example:
      roadloop models show traffic-sign factory-1
    """
    row = as_json(app.models.get(task, version), app.releases.list(task))
    bundle = app.models.bundle(task, version)
    row |= _contents(bundle)
    fields = {
        "state": row["state"],
        "releases": _numbers(row),
        "manifest": row["manifest_sha256"],
        "evaluation": _figures(row),
        **{f"lineage {key}": value for key, value in _flat(row["lineage"]).items() if value is not None},
        "variants": ", ".join(f"{key} {size:,} B" for key, size in row["variants"].items()),
        "directory": row["directory"],
    }
    output.result(row, details(fields, title=f"{task} {version}"))


@command.command()
@click.argument("task")
@click.argument("version")
@click.option("--again", is_flag=True, help="A new release of a version that was released before.")
@click.option(
    "--sealed/--in-clear",
    default=None,
    help="Whether only this fleet's vehicles can read the weights. Default: as roadloop.toml has it for the task.",
)
@with_request
@with_application
def publish(
    *,
    app: Application,
    output: Output,
    task: str,
    version: str,
    again: bool,
    sealed: bool | None,
    request: Path | None,
) -> None:
    """Sign a registered model as the next release of its task. No vehicle takes it before a rollout offers it.

    \b
    Example:
      roadloop models publish traffic-sign retrain-7
    """
    with output.steps(f"Publishing {task} {version}") as step:
        release = app.releases.publish(task, version, again=again, sealed=sealed, step=step, request=request)
    if request is not None:
        output.result(
            {"task": task, "version": version, "release": release.release, "request": request},
            f"{task} {version} will be release {release.release}",
            f"Next, where the keys are: roadloop keys sign {request} --keys FOLDER",
        )
        return
    patches = app.releases.patches(release)
    output.result(
        {
            "task": task,
            "version": version,
            "release": release.release,
            "manifest_sha256": release.manifest_sha256,
            "sealed": release.sealed,
            "patches": [asdict(patch) for patch in patches],
        },
        f"{task} {version} is release {release.release}{', sealed' if release.sealed else ''}",
        *(_shown_patch(patch) for patch in patches),
        f"Next: roadloop rollout create --task {task} --release {release.release} --all",
    )


@command.command()
@click.argument("bundle", metavar="BUNDLE", type=click.Path(path_type=Path, exists=True, file_okay=False))
@DATA_OPTION
@click.option("--runtime", type=click.Choice(["onnx", "tflite"]), help="Only this runtime.")
@click.option("--precision", type=click.Choice(["int8", "fp32"]), help="Only this precision (else int8).")
@with_output
def evaluate(output: Output, bundle: Path, data: Path, runtime: str | None, precision: str | None) -> None:
    """Run the task's published protocol on the quantized files of BUNDLE, with the runner that vehicles use.

    \b
    Example:
      roadloop models evaluate ./fleet/models/traffic-sign/factory-1 --data ./data --json
    """
    from roadloop_cloud.gate.examine import share, variant_figures
    from roadloop_cloud.gate.slices import slices_of
    from roadloop_cloud.training.evaluate import evaluate_variant
    from roadloop_models.bundle import Bundle
    from roadloop_models.tasks import get_task

    opened = Bundle.open(bundle)
    manifest = opened.manifest
    task = get_task(manifest.task)
    wanted = [
        variant
        for variant in manifest.variants
        if runtime in (None, variant.runtime) and variant.precision == (precision or "int8")
    ] or [opened.variant(runtime, precision or "int8")]
    with output.steps(f"Evaluating {manifest.task} {manifest.version}") as step:
        seen = {
            variant.key: evaluate_variant(opened, variant, data, share(step, f"evaluate {variant.key}"))
            for variant in wanted
        }
    found = {variant.key: variant_figures(opened, variant, seen[variant.key], {}) for variant in wanted}
    slices = {key: slices_of(evaluation) for key, evaluation in seen.items()}
    worst = [
        (key, kind, one.label, f"{one.error:.5g}", f"{one.rows:,}")
        for key, of_variant in slices.items()
        for kind, (one, *_) in groupby(of_variant, key=lambda one: one.kind)
    ]
    rows = [(key, name, f"{value:.5g}") for key, figures in found.items() for name, value in figures.metrics.items()]
    output.result(
        {
            "task": manifest.task,
            "version": manifest.version,
            "metric": task.metric,
            "variants": {
                key: {
                    "file_sha256": figures.file_sha256,
                    "rows": figures.rows,
                    "metrics": figures.metrics,
                    "ece": figures.ece,
                    "slices": [asdict(one) for one in slices[key]],
                }
                for key, figures in found.items()
            },
        },
        table(("variant", "figure", "value"), rows, title=f"{manifest.task} {manifest.version}"),
        *([table(("variant", "slices", "the worst", "error", "rows"), worst)] if worst else []),
    )


def as_json(model: "Model", releases: "list[Release] | Any") -> dict[str, Any]:
    """A registered model for machines."""
    return {
        "task": model.task,
        "version": model.version,
        "state": model.state,
        "manifest_sha256": model.manifest_sha256,
        "releases": [row.release for row in releases if (row.task, row.version) == (model.task, model.version)],
        "evaluation": model.evaluation,
        "lineage": model.lineage,
        "created": model.created,
    }


def _shown_patch(patch: "SignedPatch") -> str:
    return (
        f"vehicles that have {patch.path} {patch.base_sha256[:12]} receive {patch.size_bytes:,} B of it instead of "
        f"{patch.whole_bytes:,} B ({patch.kind})"
    )


def _contents(bundle: "Bundle") -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "directory": str(bundle.directory),
        "variants": {variant.key: manifest.file_entry(variant.file).size_bytes for variant in manifest.variants},
        "metrics": manifest.metrics,
    }


def _flat(lineage: dict[str, Any]) -> dict[str, Any]:
    """Training's record among the rest, without what only machines compare."""
    record = lineage.get("training") or {}
    shown = {name: value for name, value in record.items() if name not in ("packages", "code_sha256")}
    if record:
        shown["code"] = f"{shown.pop('code_version')} ({record['code_sha256'][:12]})"
        shown["recipe"] = ", ".join(f"{name} {value}" for name, value in shown["recipe"].items() if value is not None)
    return {name: value for name, value in lineage.items() if name != "training"} | shown


def _numbers(row: dict[str, Any]) -> str | None:
    return ", ".join(str(number) for number in row["releases"]) or None


def _deciding(row: dict[str, Any]) -> str | None:
    """The figure that candidates are compared by."""
    from roadloop_models.tasks import get_task

    metric = get_task(row["task"]).metric
    evaluation: dict[str, Any] = row["evaluation"] or {}
    return "\n".join(f"{key}: {metric} {found['metrics'][metric]:.5g}" for key, found in evaluation.items()) or None


def _figures(row: dict[str, Any]) -> str | None:
    evaluation: dict[str, Any] = row["evaluation"] or {}
    shown = []
    for key, figures in evaluation.items():
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in figures["metrics"].items())
        shown.append(f"{key}: {metrics}")
    return "\n".join(shown) or None
