"""`roadloop models import`: a bundle, or anybody's model file, into the registry."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from roadloop_cloud.cli.options import with_output
from roadloop_cloud.cli.output import Output, details, table
from roadloop_cloud.config import CONFIG_NAME
from roadloop_cloud.workspace import Workspace
from roadloop_models.errors import ConfigError

if TYPE_CHECKING:
    from roadloop_cloud.importing.make import Imported
    from roadloop_cloud.importing.request import ImportRequest

_File = click.Path(path_type=Path, exists=True, dir_okay=False)


def _size(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})", value)
    if found is None:
        raise click.BadParameter(f"{value!r} is no HEIGHTxWIDTH such as 416x416")
    return int(found[1]), int(found[2])


def _channels(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        values = tuple(float(part) for part in value.split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, 3):
        raise click.BadParameter(f"{value!r} is neither a number nor three, one for each channel")
    return values * (3 // len(values))


@click.command("import")
@click.argument("source", required=False, type=click.Path(path_type=Path, exists=True))
@click.option("--onnx", type=_File, help="A third-party ONNX file.")
@click.option("--tflite", type=_File, help="A third-party TFLite file.")
@click.option("--task", help="What it is for: object-detection, vehicle-count or traffic-sign.")
@click.option("--labels", type=_File, help="One label a line, in the order of its classes.")
@click.option("--version", help="Name of the new version.")
@click.option("--output", "directory", type=click.Path(path_type=Path), help="Write the bundle here.")
@click.option("--order", type=click.Choice(["rgb", "bgr"]), help="Order of its colours.")
@click.option("--scale", type=float, help="tensor = (pixel * SCALE - mean) / std")
@click.option("--mean", metavar="N|N,N,N", callback=_channels, help="By channel, in its own order.")
@click.option("--std", metavar="N|N,N,N", callback=_channels, help="By channel, in its own order.")
@click.option(
    "--fit",
    type=click.Choice(["stretch", "corner", "center"]),
    help="Stretch the image to its size, or keep the aspect ratio and pad right and below, or all around.",
)
@click.option("--pad", type=click.IntRange(0, 255), help="Grey of the padding.")
@click.option("--size", metavar="HEIGHTxWIDTH", callback=_size, help="Its input size, where the file leaves it open.")
@click.option(
    "--verbatim", is_flag=True, default=None, help="Take the file byte for byte; else what is slow is rewritten."
)
@click.option("--decoder", help="What its outputs are, where that is not recognised.")
@click.option("--boxes", "unit", type=click.Choice(["pixels", "normalized"]), help="What its boxes are measured in.")
@click.option("--scores", metavar="NAME", help="The output with the scores, of four.")
@click.option("--min-score", type=click.FloatRange(0, 1, min_open=True), help="Detections below it are left out.")
@click.option("--max-iou", type=click.FloatRange(0, 1, min_open=True), help="Overlap from which the worse box goes.")
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path, exists=True),
    help="A folder of images or a video of yours: make an int8 file too (ONNX).",
)
@click.option("--origin", help="Where the file comes from, for the model card.")
@click.option("--licence", type=_File, help="Its licence text, kept in the bundle.")
@click.option("--licence-name", help="The name of its licence, for the model card.")
@click.option(
    "--workspace",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="ROADLOOP_WORKSPACE",
    show_envvar=True,
    help="Register it there. Default: the current directory, where that is a workspace.",
)
@with_output
def command(
    *,
    output: Output,
    source: Path | None,
    onnx: Path | None,
    tflite: Path | None,
    directory: Path | None,
    workspace: Path | None,
    **asked: Any,
) -> None:
    """Register SOURCE, a bundle directory or a bundle archive, after checking every file. Or make a bundle of a model
    file that somebody else trained: its tensors are inspected, and what cannot be seen in it is asked for.

    \b
    Example:
      roadloop models import ./my-bundle
      roadloop models import --onnx yolox_nano.onnx --task object-detection --labels coco.names --version yolox-1
    """
    if sum(given is not None for given in (source, onnx, tflite)) != 1:
        raise ConfigError("give one of: SOURCE (a bundle), --onnx FILE, --tflite FILE")
    if source is not None:
        given = [name for name, value in asked.items() if value is not None] + ["output"] * (directory is not None)
        if given:
            raise ConfigError(f"--{given[0].replace('_', '-')}: only for --onnx and --tflite; a bundle says it itself")
        _register(output, source, workspace)
        return
    request = _request(onnx, tflite, asked)
    registered = workspace is not None or directory is None or Path(CONFIG_NAME).is_file()
    _from_file(output, request, directory, Workspace.open(workspace or Path()) if registered else None)


def _request(onnx: Path | None, tflite: Path | None, asked: dict[str, Any]) -> "ImportRequest":
    from roadloop_cloud.importing.choices import Choices
    from roadloop_cloud.importing.layouts import Hints
    from roadloop_cloud.importing.request import ImportRequest

    for needed in ("task", "version"):
        if asked[needed] is None:
            raise ConfigError(f"--{needed} is needed with --onnx and --tflite")
    path = onnx or tflite
    assert path is not None, "one of the two was given"
    choices = ("order", "scale", "mean", "std", "fit", "pad", "min_score", "max_iou")
    return ImportRequest(
        path=path,
        runtime="onnx" if onnx is not None else "tflite",
        task=asked["task"],
        version=asked["version"],
        labels=asked["labels"],
        size=asked["size"],
        verbatim=bool(asked["verbatim"]),
        choices=Choices(**{name: asked[name] for name in choices}),
        hints=Hints(asked["decoder"], asked["unit"], asked["scores"]),
        calibrate=asked["calibrate"],
        source=asked["origin"],
        licence=asked["licence"],
        licence_name=asked["licence_name"],
    )


def _register(output: Output, source: Path, workspace: Path | None) -> None:
    from roadloop_cloud.app import Application
    from roadloop_cloud.cli.models import as_json

    model = Application(Workspace.open(workspace or Path())).models.import_from(source)
    output.result(as_json(model, []), f"{model.task} {model.version} is registered", _next(model.task, model.version))


def _from_file(output: Output, request: "ImportRequest", directory: Path | None, workspace: Workspace | None) -> None:
    import tempfile

    from roadloop_cloud.app import Application
    from roadloop_cloud.importing.make import import_model

    with tempfile.TemporaryDirectory(prefix="roadloop-import-") as scratch, output.steps("Importing") as step:
        imported = import_model(request, directory or Path(scratch) / "bundle", step)
        if workspace is not None:
            Application(workspace).models.register(imported.bundle.directory)
    notes = [] if directory is None else [f"written to {directory}"]
    if workspace is not None:
        notes += [f"{request.task} {request.version} is registered", _next(request.task, request.version)]
    _show(output, imported, notes, directory, registered=workspace is not None)


def _show(output: Output, imported: "Imported", notes: list[str], directory: Path | None, *, registered: bool) -> None:
    from roadloop_cloud.importing.card import agreement_line, shown

    manifest, agreement = imported.bundle.manifest, imported.agreement
    variants = {variant.key: manifest.file_entry(variant.file).size_bytes for variant in manifest.variants}
    rows = [(setting.name, shown(setting.value), setting.source) for setting in imported.settings]
    output.result(
        {
            "task": manifest.task,
            "version": manifest.version,
            "manifest_sha256": imported.bundle.manifest_sha256,
            "bundle": directory,
            "registered": registered,
            "settings": [vars(setting) for setting in imported.settings],
            "changes": list(imported.changes),
            "variants": variants,
            "agreement": None if agreement is None else vars(agreement),
        },
        table(("setting", "value", "from"), rows, title=f"{manifest.task} {manifest.version}"),
        details({key: f"{size:,} B" for key, size in variants.items()}),
        *imported.changes,
        *([] if agreement is None else [agreement_line(agreement)]),
        *notes,
    )


def _next(task: str, version: str) -> str:
    return f"Next: roadloop models publish {task} {version}"
