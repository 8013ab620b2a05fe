"""One version's page: what its bundle says of its making, and what was seen, judged and explained here."""

import html
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from roadloop_cloud.cards.pictures import draw_disturbances, draw_reliability, draw_slices
from roadloop_cloud.drawing import check_drawing
from roadloop_cloud.explain.service import PICTURE
from roadloop_cloud.files import move_tree_durably, write_atomic
from roadloop_cloud.gate.calibration import expected_calibration_error, reliability
from roadloop_cloud.gate.examine import read_examined
from roadloop_cloud.gate.figures import Seen, Verdict
from roadloop_cloud.gate.records import ROWS_FOLDER, Record, Records
from roadloop_cloud.gate.slices import slices_of
from roadloop_models.bundle import Bundle
from roadloop_models.tasks import get_task

PAGE = "MODEL_CARD.md"
CARD_FOLDER = "card"
"""Beside a version's evaluation."""
_IMAGES = (".png", ".svg")


@dataclass(frozen=True)
class Written:
    """A card on disk."""

    page: Path
    pictures: tuple[Path, ...]


def keep_card(bundle: Bundle, records: Records) -> Path:
    """Write the card beside the version's evaluation, whole or not at all, in the place of an older one.

    Returns the page. Repeatable. Raises as `write_card`.
    """
    target = records.of(bundle.manifest.task, bundle.manifest.version) / CARD_FOLDER
    staging, older = (target.with_name(f".{CARD_FOLDER}.{kind}") for kind in ("partial", "older"))
    for left in (staging, older):
        shutil.rmtree(left, ignore_errors=True)
    write_card(bundle, records, staging)
    if target.exists():
        target.rename(older)  # removed where it is, it would be half there for a moment
    move_tree_durably(staging, target)
    shutil.rmtree(older, ignore_errors=True)
    return target / PAGE


def write_card(bundle: Bundle, records: Records, target: Path) -> Written:
    """Write the page and its pictures below `target`.

    Raises DataError where the evaluation kept here is damaged, and RuntimeMissingError, with nothing written, where
    nothing is installed that draws what was evaluated.
    """
    manifest = bundle.manifest
    record, kept = records.read(manifest.task, manifest.version), records.of(manifest.task, manifest.version)
    if record is not None:
        check_drawing()
    target.mkdir(parents=True, exist_ok=True)
    pictures = list(_copied_pictures(bundle, target))
    lines = [_own_card(bundle), "## Seen here", ""]
    if record is None:
        lines += ["This workspace has not evaluated it: `roadloop models gate` does.", ""]
    else:
        lines += _evaluated(record)
        seen = read_examined(record.figures, kept / ROWS_FOLDER)
        key = _shown_variant(record)
        drawn = _draw(seen[key], record, key, target)
        lines += [line for name, path in drawn for line in (f"![{name}]({path.name})", "")]
        pictures += [path for _, path in drawn]
        if record.verdict is not None:
            lines += _judged(record, record.verdict)
    if (kept / PICTURE).exists():
        pictures.append(target / PICTURE)
        shutil.copyfile(kept / PICTURE, target / PICTURE)
        lines += ["## What it looks at", "", *_EXPLAINED, "", f"![explanation]({PICTURE})", ""]
    write_atomic(target / PAGE, "\n".join(lines).encode())
    return Written(target / PAGE, tuple(pictures))


_EXPLAINED = (
    "Rows of the test set, half of them its worst. *Occlusion*: a part of the input is hidden from the quantized file;",
    "red parts are those without which the answer falls. *Integrated gradients*: of the training weights, from a",
    "baseline (grey for images, the mean of training rows for series) to the input.",
)


def _own_card(bundle: Bundle) -> str:
    manifest = bundle.manifest
    if manifest.model_card is None:
        return f"# {manifest.task} {manifest.version}\n\nIts bundle carries no card.\n"
    return bundle.read(manifest.model_card).decode("utf-8")


def _copied_pictures(bundle: Bundle, target: Path) -> Iterable[Path]:
    """Those that the bundle's own card may show."""
    for entry in bundle.manifest.files:
        if entry.path.endswith(_IMAGES):
            copied = target / entry.path
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_bytes(bundle.read(entry.path))
            yield copied


def _evaluated(record: Record) -> list[str]:
    """A table of all figures by variant."""
    found = record.figures
    names = list(next(iter(found.values())).metrics)
    lines = [f"| figure | {' | '.join(found)} |", "|---|" + "---|" * len(found)]
    lines += [f"| {name} | {' | '.join(f'{one.metrics[name]:.4f}' for one in found.values())} |" for name in names]
    lines.append(f"| test rows | {' | '.join(f'{one.rows:,}' for one in found.values())} |")
    lines.append(f"| bytes | {' | '.join(f'{one.size_bytes:,}' for one in found.values())} |")
    if any(one.ece is not None for one in found.values()):
        lines.append(f"| expected calibration error | {' | '.join(_number(one.ece) for one in found.values())} |")
    for name in next(iter(found.values())).disturbed:
        metric = get_task(record.task).metric
        lines.append(f"| {metric}, {name} | {' | '.join(_number(one.disturbed[name]) for one in found.values())} |")
    return [*lines, ""]


def _draw(seen: Seen, record: Record, key: str, target: Path) -> list[tuple[str, Path]]:
    """(what it shows, where it is) of each picture of the variant that decided."""
    figures, metric = record.figures[key], get_task(record.task).metric
    drawn = []
    slices = slices_of(seen.evaluation)
    if slices:
        draw_slices(slices, f"error ({key}), {metric}", target / "slices.png")
        drawn.append(("error by slice", target / "slices.png"))
    sure, hits = seen.evaluation.confidences, seen.evaluation.hits
    if sure is not None and hits is not None and len(hits):
        draw_reliability(reliability(sure, hits), expected_calibration_error(sure, hits), target / "reliability.png")
        drawn.append(("confidence against hits", target / "reliability.png"))
    if figures.disturbed:
        draw_disturbances(figures.metrics[metric], figures.disturbed, metric, target / "disturbances.png")
        drawn.append(("what worse sensors cost", target / "disturbances.png"))
    return drawn


def _judged(record: Record, verdict: Verdict) -> list[str]:
    outcome = "Accepted" if verdict.accepted else "Refused"
    lines = [
        f"## Gate: {outcome.lower()}",
        "",
        f"Against {record.incumbent}.",
        "",
        "| gate | | found |",
        "|---|---|---|",
    ]
    lines += [
        f"| {one.gate} | {'passed' if one.passed else '**refused**'} | {_cell(one.detail)} |" for one in verdict.gates
    ]
    return [*lines, ""]


def _shown_variant(record: Record) -> str:
    deciding = "" if record.verdict is None else record.verdict.deciding
    return deciding if deciding in record.figures else next(iter(record.figures))


def _cell(text: str) -> str:
    """As one cell of a table: what names a slice may be anybody's word."""
    return html.escape(text, quote=False).replace("|", "\\|")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
