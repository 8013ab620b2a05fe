"""`roadloop-agent infer`: a bundle over a file, one JSON line per decision, with the code that drives."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from roadloop_agent.drive.pipeline import Model, load_model
from roadloop_agent.onboard import ON_BOARD, OnBoard, load_named, task_settings
from roadloop_models.bundle import MANIFEST_NAME, Bundle, parse_manifest
from roadloop_models.bundle.manifest import MAX_MANIFEST_BYTES
from roadloop_models.errors import BundleError, ConfigError, DataError, RuntimeMissingError

Progress = Callable[[Iterable[Any], int | None], contextlib.AbstractContextManager[Iterable[Any]]]
"""Shows the items going by: (items, how many) -> a context with the items."""


@dataclass(frozen=True)
class InferOptions:
    """What a task may be told on the command line; each takes what concerns it."""

    settings: dict[str, Any]
    """As `[slots.X.settings]` of a profile."""
    outage: tuple[float, float] | None = None
    """(start, length) in seconds after the first row: the reference is hidden from the model for so long."""
    dbc: tuple[Path, ...] = ()
    """How the frames of a CAN log are decoded."""
    drive: str | None = None
    """One drive of a file that has several."""
    annotate: Path | None = None
    """object-detection: a clip to write that shows what was found."""


@dataclass(frozen=True)
class Lines:
    """The decisions of a model over a file."""

    lines: Iterator[dict[str, Any]]
    count: int | None
    """How many there will be, for the progress bar; None where that is not known before."""


OpenLines = Callable[[Model, Path, InferOptions], Lines]
"""What a task's module of this package has as `open_lines`. Raises DataError where the file is not what it takes."""


def open_model(directory: Path, runtime: str | None, precision: str | None) -> Model:
    """The first variant of that runtime and precision that works here; int8 before fp32.

    Raises VariantMissingError with the list of what the bundle has, BundleError, RuntimeMissingError.
    """
    bundle = _peek(directory)
    bundle.variant(runtime, precision)
    candidates = sorted(bundle.manifest.variants, key=lambda variant: variant.precision != "int8")
    missing: RuntimeMissingError | None = None
    for variant in candidates:
        if runtime in (None, variant.runtime) and precision in (None, variant.precision):
            try:
                return load_model(directory, variant.key)
            except RuntimeMissingError as error:
                missing = missing or error
    assert missing is not None
    raise missing


def infer_file(model: Model, path: Path, output: Path, options: InferOptions, progress: Progress) -> int:
    """Run `model` over a file or folder and write `output` as JSON lines; returns how many.

    Raises DataError where the input is missing, unreadable or not what the task takes. `output` appears when it is
    complete.
    """
    task = model.bundle.manifest.task
    on_board = ON_BOARD.get(task)
    if on_board is None:
        raise BundleError(f"{model.bundle.directory}: task '{task}' is unknown to this agent")
    _refuse_what_has_no_meaning(task, on_board, options)
    open_lines: OpenLines = load_named(on_board.infer)
    found = open_lines(model, path, options)
    temporary = output.with_name(f".{output.name}.tmp-{os.getpid()}")
    written = 0
    try:
        with temporary.open("wb") as file, progress(found.lines, found.count) as shown:
            for line in shown:
                file.write(msgspec.json.encode(line) + b"\n")
                written += 1
        temporary.replace(output)
    except OSError as error:
        raise DataError(f"{output}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return written


def _refuse_what_has_no_meaning(task: str, on_board: OnBoard, options: InferOptions) -> None:
    """An option that is silently without effect would be taken for one that works."""
    for name in ("outage", "dbc", "drive", "annotate"):
        if getattr(options, name) and name not in on_board.infer_options:
            raise ConfigError(f"--{name}: means nothing to {task}; leave it out")
    task_settings(task, options.settings, f"options for {task}")


def _peek(directory: Path) -> Bundle:
    """Read the manifest only: which files must be whole depends on the variant, which is chosen from it."""
    path = directory / MANIFEST_NAME
    try:
        with path.open("rb") as file:
            manifest = parse_manifest(file.read(MAX_MANIFEST_BYTES + 1))
    except OSError as error:
        raise BundleError(
            f"{path}: {error.strerror or error}; a bundle is a directory with a {MANIFEST_NAME}"
        ) from error
    return Bundle(directory, manifest, "")
