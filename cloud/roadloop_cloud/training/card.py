"""The model card of a bundle: what it is, what it learned from, what it achieves, where it must not be trusted."""

from dataclasses import dataclass

from roadloop_cloud.training.spec import TrainingSpec
from roadloop_models.bundle import Variant

_DATA = {
    "traffic-sign": """GTSRB (Stallkamp et al., Neural Networks 2012; Institut für Neuroinformatik, Ruhr-Universität
Bochum; "freely available", to be cited), resized to 32x32: every fourth frame of the official training tracks, and a
stratified half of the official test images to evaluate on. No licence text comes with the copy that was used.""",
    "traffic-speed": """Los-loop: one week (1 to 7 March 2012) of METR-LA loop detectors in Los Angeles County, 207
sensors, five-minute steps, as published with T-GCN (Zhao et al., IEEE T-ITS 2019; code and data under MIT). The
underlying record is public agency data.""",
}
_PROTOCOL = {
    "traffic-sign": "Top-1 accuracy over all test images, one frame at a time.",
    "traffic-speed": """That of T-GCN: the last 20 % of the steps, windows of 12 steps in and 3, 6, 9 or 12 out; errors
are pooled over all steps up to the horizon, all windows and all sensors. The time of day is an input too.""",
}
_SEEN = {
    "traffic-sign": """The epoch was chosen without test rows. The kinds of variation in training were settled after
looking at an earlier model's errors on the test images, so the test figures may be slightly optimistic.""",
    "traffic-speed": """The epoch and the inputs of the network were chosen without test rows, by validation. Test
figures of earlier networks were seen on the way, and search went on because they were too high.""",
}
_LIMITS = {
    "traffic-sign": """German signs only, cropped and roughly centred; it does not find signs in a scene, and it
answers with one of 43 classes also where there is none. Signs that are dark, snowed over or photographed from far away
are where most errors are.""",
    "traffic-speed": """These 207 sensors only, on workdays and weekends like those of one week; it has never seen a
holiday, a closed road or a sensor that fails. It needs twelve consecutive steps.""",
}


@dataclass(frozen=True)
class CardFigures:
    """What the card reports beside the spec."""

    architecture: str
    split_note: str
    parameters: int
    best_epoch: int
    score_name: str
    score: float
    refitted: bool
    test_rows: int | None
    sizes_bytes: dict[str, int]
    test: dict[str, dict[str, float]]
    """Variant key -> figures on the test rows."""


def model_card(spec: TrainingSpec, variants: tuple[Variant, ...], figures: CardFigures) -> str:
    """The card as Markdown."""
    source = "made data, drawn from a seed" if spec.data_name == "made" else _DATA[spec.task]
    lines = [
        f"# {spec.task} {spec.version}",
        "",
        f"{figures.architecture}. {figures.parameters:,} parameters.",
        "",
        "## Data",
        source,
        "",
        f"Part trained on: `{spec.data.part}`: {figures.split_note}.",
        "",
        "## Training",
        _training_note(spec, figures),
        "",
    ]
    if spec.command is not None:
        lines += ["```", spec.command, "```", ""]
    lines += ["## Files", "", "| variant | bytes | quantizer | golden tolerance |", "|---|---|---|---|"]
    lines += [
        f"| {variant.key} | {figures.sizes_bytes[variant.file]:,} | {variant.quantizer or 'none'} | "
        f"{variant.golden_tolerance:g} |"
        for variant in variants
    ]
    lines += ["", "## Figures", _PROTOCOL[spec.task], "", *_figure_table(figures), ""]
    lines += ["## Limits", _LIMITS[spec.task], ""]
    return "\n".join(lines)


def _training_note(spec: TrainingSpec, figures: CardFigures) -> str:
    start = "from nothing" if spec.parent is None else "from the parent version's weights"
    chosen = f"Validation chose epoch {figures.best_epoch} ({figures.score_name} {figures.score:.4g})"
    if figures.refitted:
        chosen += "; the weights are of a second run of that many epochs on all rows of the part"
    return f"Seed {spec.seed}, {start}. {chosen}. {_SEEN[spec.task]}"


def _figure_table(figures: CardFigures) -> list[str]:
    if not figures.test:
        return ["Not evaluated on test rows when it was built."]
    names = list(next(iter(figures.test.values())))
    table = [f"Test rows: {figures.test_rows:,}.", "", "| figure | " + " | ".join(figures.test) + " |"]
    table.append("|---|" + "---|" * len(figures.test))
    for name in names:
        table.append(f"| {name} | " + " | ".join(f"{values[name]:.4f}" for values in figures.test.values()) + " |")
    return table
