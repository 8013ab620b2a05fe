"""The model card of an imported bundle: what is known of a stranger, and what is not."""

from collections.abc import Sequence
from dataclasses import dataclass

from roadloop_cloud.importing.agreement import Agreement
from roadloop_cloud.importing.choices import Setting
from roadloop_models.bundle import Variant


@dataclass(frozen=True)
class Origin:
    """What the person who imported it said and the file shows."""

    file_name: str
    sha256: str
    size_bytes: int
    source: str | None
    licence: str | None
    changes: tuple[str, ...]
    """Sentences on why the file in the bundle is not byte for byte the source; empty where it is."""


@dataclass(frozen=True)
class CardFacts:
    """What the card reports."""

    title: str
    command: str
    origin: Origin
    settings: Sequence[Setting]
    variants: Sequence[tuple[Variant, int]]
    """Each with the size of its file in bytes."""
    agreement: Agreement | None


def import_card(facts: CardFacts) -> str:
    """The card as Markdown."""
    origin, agreement = facts.origin, facts.agreement
    lines = [
        f"# {facts.title}",
        "",
        "Imported: trained elsewhere, by somebody else. Nothing was learned from or evaluated on data of this project.",
        "",
        "## Origin",
        f"File `{origin.file_name}`, {origin.size_bytes:,} bytes, SHA-256 `{origin.sha256}`.",
        f"Source: {origin.source or 'not said when it was imported: unknown'}.",
        f"Licence: {origin.licence or 'not said when it was imported: unknown. Find out before you ship it'}.",
        "Training data, figures and limits of the model are its authors' to tell; none were given.",
        "",
        *([" ".join(origin.changes), ""] if origin.changes else []),
        "```",
        facts.command,
        "```",
        "",
        "## How it is fed and read",
        "",
        "| setting | value | from |",
        "|---|---|---|",
        *(f"| {setting.name} | {shown(setting.value)} | {setting.source} |" for setting in facts.settings),
        "",
        "tensor = (pixel * scale - mean) / std, by channel. A wrong order, scale or fit is no error that anything "
        "reports: look at annotated frames, and measure on labelled images of your own.",
        "",
        "## Files",
        "",
        "| variant | bytes | quantizer | golden tolerance |",
        "|---|---|---|---|",
        *(
            f"| {variant.key} | {size_bytes:,} | {variant.quantizer or 'none here'} | {variant.golden_tolerance:g} |"
            for variant, size_bytes in facts.variants
        ),
        "",
    ]
    if agreement is not None:
        lines += ["## int8 beside float", "", agreement_line(agreement), ""]
    return "\n".join(lines)


def agreement_line(agreement: Agreement) -> str:
    """One sentence on what quantization did."""
    return (
        f"On {agreement.images} held-back calibration images: {agreement.measure} {agreement.value:.3f} "
        f"({agreement.decisions_fp32} decisions in float, {agreement.decisions_int8} in int8); the int8 file takes "
        f"{agreement.speed_ratio:.2f} times as long on the machine that imported it."
    )


def shown(value: float | str | tuple[float, ...]) -> str:
    """A value for people."""
    if isinstance(value, tuple):
        return ", ".join(f"{part:.6g}" for part in value)
    return value if isinstance(value, str) else f"{value:.6g}"
