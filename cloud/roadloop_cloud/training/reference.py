"""The reference of a release: the signals of rows that its training held out, or of all where those are too few."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from roadloop_cloud.training.spec import DataSource
from roadloop_models.bundle import Bundle, Variant, write_bundle
from roadloop_models.errors import DataError, NotFoundError
from roadloop_models.sketches.measure import (
    Measured,
    joined,
    measure_drives,
    measure_flow,
    measure_signs,
    measure_speeds,
)
from roadloop_models.sketches.reference import REFERENCE_FILE, encode_reference, make_reference
from roadloop_models.tasks.flow_data import load_training_flow
from roadloop_models.tasks.obd_data import hold_out, load_training_drives
from roadloop_models.tasks.sign_data import load_training_signs, split_by_track
from roadloop_models.tasks.speed_data import load_training_speeds

HELD_OUT_SHARE = 0.2
LEAST_TRACKS = 100
"""With fewer held-out tracks all of them are measured: a reference of too few things seen would call everything new."""
MOST_STEPS = 14 * 288
"""Of a series the last two weeks: it should look like now."""
MOST_DRIVES = 40
DECISION_S = 5.0
"""Of drives: what lies between adds little, and each decision takes its time."""


def with_reference(bundle: Bundle, source: DataSource, directory: Path, seed: int = 0) -> Bundle:
    """A bundle of the same files and a reference, written to `directory`.

    Raises DataError for the rows, NotFoundError for a task whose drift is not watched, BundleError where the directory
    exists.
    """
    content = reference_of(bundle, source, seed=seed)
    if bundle.manifest.task not in _MEASURES:
        raise NotFoundError(f"drift of {bundle.manifest.task} is not watched; there is {', '.join(_MEASURES)}")
    if content is None:
        raise DataError(f"{source.directory}: too few rows of {bundle.manifest.task} for a reference")
    files = {entry.path: bundle.read(entry.path) for entry in bundle.manifest.files}
    manifest = msgspec.structs.replace(bundle.manifest, reference=REFERENCE_FILE)
    return write_bundle(directory, manifest, files | {REFERENCE_FILE: content})


def reference_of(bundle: Bundle, source: DataSource, *, base: DataSource | None = None, seed: int = 0) -> bytes | None:
    """`reference.json` of a finished bundle, from the training rows of `source`, and of `base` where it replays any.

    None where drift of its task is not watched, or the rows are too few to say anything. Measured on the first int8
    variant: the other runtime's differs by less than a bin.
    """
    measure = _MEASURES.get(bundle.manifest.task)
    if measure is None:
        return None
    parts = [measure(bundle, bundle.variant(), one, seed) for one in (source, base) if one is not None]
    measured = joined([part for part in parts if len(part.rows)])
    if measured is None:
        return None
    reference = make_reference(bundle.manifest.task, measured.rows, measured.blocks)
    return encode_reference(reference) if reference.signals else None


def _signs(bundle: Bundle, variant: Variant, source: DataSource, seed: int) -> Measured:
    rows = load_training_signs(Path(source.directory), source.part)
    _, held = split_by_track(rows, HELD_OUT_SHARE, seed)
    chosen = held if len(set(held.tracks.tolist())) >= LEAST_TRACKS else rows
    return measure_signs(bundle, variant, chosen.images, chosen.tracks)


def _speeds(bundle: Bundle, variant: Variant, source: DataSource, seed: int) -> Measured:
    rows = load_training_speeds(Path(source.directory), source.part)
    return measure_speeds(bundle, variant, rows.span(max(len(rows) - MOST_STEPS, 0), len(rows)))


def _flow(bundle: Bundle, variant: Variant, source: DataSource, seed: int) -> Measured:
    rows = load_training_flow(Path(source.directory), source.part)
    return measure_flow(bundle, variant, rows.span(max(len(rows) - MOST_STEPS, 0), len(rows)))


def _drives(bundle: Bundle, variant: Variant, source: DataSource, seed: int) -> Measured:
    drives = load_training_drives(Path(source.directory), source.part)
    _, held = hold_out(drives, HELD_OUT_SHARE)
    return measure_drives(bundle, variant, held[:MOST_DRIVES], DECISION_S)


_MEASURES: dict[str, Callable[[Bundle, Variant, DataSource, int], Measured]] = {
    "drive-state": _drives,
    "traffic-flow": _flow,
    "traffic-sign": _signs,
    "traffic-speed": _speeds,
}
