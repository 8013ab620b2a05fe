"""The model card of a bundle: what it is, what it learned from, what it achieves, where it must not be trusted."""

import statistics
from dataclasses import dataclass

from roadloop_cloud.training.spec import TrainingSpec
from roadloop_models.bundle import Variant

CURVES_FILE = "curves.png"


@dataclass(frozen=True)
class CardTexts:
    """What a task has to say of itself in its model card, whoever trains it."""

    data: str
    """Where the rows come from, their licence, and which of them are for testing."""
    protocol: str
    """How the figures are found."""
    seen: str
    """What of the test rows was seen while the model was made."""
    limits: str
    """Where the model must not be trusted."""


@dataclass(frozen=True)
class CardFigures:
    """What the card reports beside the spec."""

    texts: CardTexts
    architecture: str
    split_note: str
    parameters: int
    best_epoch: int
    score_name: str
    score: float | None
    """On validation rows; None where these were trained on from the start."""
    refitted: bool
    test_rows: int | None
    sizes_bytes: dict[str, int]
    test: dict[str, dict[str, float]]
    """Variant key -> figures on the test rows."""


def model_card(spec: TrainingSpec, variants: tuple[Variant, ...], figures: CardFigures) -> str:
    """The card as Markdown."""
    lines = [
        f"# {spec.task} {spec.version}",
        "",
        f"{figures.architecture}. {figures.parameters:,} parameters.",
        "",
        "## Data",
        _source(spec, figures.texts),
        "",
        f"Part trained on: `{spec.data.part}`: {figures.split_note}.",
        "",
        "## Training",
        _training_note(spec, figures),
        "",
    ]
    if CURVES_FILE in figures.sizes_bytes:
        lines += [f"![Loss and validation score by epoch]({CURVES_FILE})", ""]
    if spec.command is not None:
        lines += ["```", spec.command, "```", ""]
    lines += ["## Files", "", "| variant | bytes | quantizer | golden tolerance |", "|---|---|---|---|"]
    lines += [
        f"| {variant.key} | {figures.sizes_bytes[variant.file]:,} | {variant.quantizer or 'none'} | "
        f"{variant.golden_tolerance:g} |"
        for variant in variants
    ]
    lines += ["", "## Figures", figures.texts.protocol, "", *_figure_table(figures), ""]
    lines += ["## Limits", figures.texts.limits, ""]
    return "\n".join(lines)


def _source(spec: TrainingSpec, texts: CardTexts) -> str:
    if spec.data_name == "made":
        return "made data, drawn from a seed"
    if spec.snapshot_sha256 is None:
        return texts.data
    sha256 = spec.snapshot_sha256[:12]
    return (
        f"What vehicles of a fleet sent, as snapshot `{sha256}` keeps it; `roadloop dataset show {sha256}` tells its "
        "vehicles, where its labels come from and what was left out. What the versions before this one were trained "
        "on, their cards tell."
    )


def _training_note(spec: TrainingSpec, figures: CardFigures) -> str:
    course = f"{_course(spec, figures)}{_fold_note(spec, figures.score_name)}"
    return course if spec.snapshot_sha256 is not None else f"{course} {figures.texts.seen}"


def _fold_note(spec: TrainingSpec, score_name: str) -> str:
    scores = spec.fold_scores
    if not scores:
        return ""
    return (
        f" Cross-validated in {len(scores)} folds: {score_name} {statistics.fmean(scores):.4g}, standard deviation "
        f"{statistics.stdev(scores):.2g}."
    )


def _course(spec: TrainingSpec, figures: CardFigures) -> str:
    if spec.merge:
        return f"Nothing was trained: it is {len(spec.merge)} networks in one, and its answer is the mean of theirs."
    start = "from nothing" if spec.parent is None else "from the parent version's weights"
    if figures.score is None:
        return f"Seed {spec.seed}, {start}, on all rows of the part, for {figures.best_epoch} epochs."
    chosen = f"Validation chose epoch {figures.best_epoch} ({figures.score_name} {figures.score:.4g})"
    if figures.refitted:
        chosen += "; the weights are of a second run of that many epochs on all rows of the part"
    return f"Seed {spec.seed}, {start}. {chosen}."


def _figure_table(figures: CardFigures) -> list[str]:
    if not figures.test:
        return ["Not evaluated on test rows when it was built."]
    names = list(next(iter(figures.test.values())))
    table = [f"Test rows: {figures.test_rows:,}.", "", "| figure | " + " | ".join(figures.test) + " |"]
    table.append("|---|" + "---|" * len(figures.test))
    for name in names:
        table.append(f"| {name} | " + " | ".join(f"{values[name]:.4f}" for values in figures.test.values()) + " |")
    return table
