"""`roadloop-agent infer`: a bundle over a file, one JSON line per item, with the code that drives."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from roadloop_agent.config import TAKES
from roadloop_agent.drive.frames import Item
from roadloop_agent.drive.pipeline import Model, load_model
from roadloop_agent.drive.sources.speeds import SpeedsCsv
from roadloop_models.bundle import MANIFEST_NAME, Bundle, parse_manifest
from roadloop_models.bundle.manifest import MAX_MANIFEST_BYTES
from roadloop_models.errors import BundleError, DataError, RuntimeMissingError

Progress = Callable[[Iterable[Any], int], contextlib.AbstractContextManager[Iterable[Any]]]
"""Shows the items going by: (items, how many) -> a context with the items."""


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


def infer_file(model: Model, path: Path, output: Path, progress: Progress) -> int:
    """Run `model` over a file or folder and write `output` as JSON lines; returns how many.

    Raises DataError where the input is missing, unreadable or not what the task takes. `output` appears when it is
    complete.
    """
    task = model.bundle.manifest.task
    takes = TAKES.get(task)
    if takes is None:
        raise BundleError(f"{model.bundle.directory}: task '{task}' is unknown to this agent")
    lines, count = _speed_lines(model, path) if takes == "speeds" else _sign_lines(model, path)
    temporary = output.with_name(f".{output.name}.tmp-{os.getpid()}")
    written = 0
    try:
        with temporary.open("wb") as file, progress(lines, count) as shown:
            for line in shown:
                file.write(msgspec.json.encode(line) + b"\n")
                written += 1
        temporary.replace(output)
    except OSError as error:
        raise DataError(f"{output}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return written


def _sign_lines(model: Model, path: Path) -> tuple[Iterator[dict[str, Any]], int]:
    items, count = _images(path)

    def lines() -> Iterator[dict[str, Any]]:
        for item in items:
            decision = model.see(item.data)
            yield {
                "input": item.name,
                "class_id": decision.class_id,
                "label": decision.label,
                "confidence": round(decision.confidence, 6),
            }

    return lines(), count


def _speed_lines(model: Model, path: Path) -> tuple[Iterator[dict[str, Any]], int]:
    if path.suffix.lower() != ".csv":
        raise DataError(f"{path}: {model.bundle.manifest.task} takes a CSV of speeds under a header of sensor ids")
    source = SpeedsCsv(path)

    def lines() -> Iterator[dict[str, Any]]:
        for row, item in enumerate(source):
            if item.data.window is not None:
                forecast = model.forecast(item.data.window)
                yield {
                    "step": row + 1,
                    "forecast": [[round(value, 3) for value in sensor] for sensor in forecast.tolist()],
                }

    return lines(), sum(item.data.window is not None for item in source)


def _images(path: Path) -> tuple[Iterable[Item], int]:
    from roadloop_agent.drive.sources import images

    suffix = path.suffix.lower()
    source: images.NpzImages | images.Images | images.Video
    if suffix == ".csv":
        raise DataError(f"{path}: a CSV is for traffic-speed; this bundle takes images, a folder, a video or an .npz")
    if suffix == ".npz":
        source = images.NpzImages(path)
    elif path.is_dir() or suffix in images.SUFFIXES:
        source = images.Images(path)
    else:
        source = images.Video(path)
    return source, len(source)


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
