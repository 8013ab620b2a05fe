"""The pictures of a card: error by slice, confidence against hits, and what worse sensors cost."""

from collections.abc import Sequence
from pathlib import Path

from roadloop_cloud.drawing import blank_figure
from roadloop_cloud.gate.calibration import Bin
from roadloop_cloud.gate.slices import Slice

_BAR, _LINE = "#2e7d9a", "#c0392b"
_DPI = 110


def draw_slices(slices: Sequence[Slice], unit: str, path: Path) -> None:
    """A bar for each slice, and behind its name on how many rows."""
    figure = blank_figure(7.0, 0.8 + 0.17 * len(slices))
    axes = figure.subplots()
    axes.barh(range(len(slices)), [one.error for one in slices], color=_BAR)
    axes.set_yticks(range(len(slices)), [f"{one.kind}: {one.label} ({one.rows})" for one in slices], fontsize=6)
    axes.invert_yaxis()
    axes.set_xlabel(unit, fontsize=8)
    figure.savefig(path, dpi=_DPI)


def draw_reliability(bins: Sequence[Bin], error: float, path: Path) -> None:
    """Share of hits by confidence; on the diagonal a model is as often right as it is sure."""
    figure = blank_figure(4.0, 3.6)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    axes.plot([one.confidence for one in bins], [one.hit_share for one in bins], "o-", color=_LINE, markersize=4)
    axes.set_xlabel("confidence", fontsize=8)
    axes.set_ylabel("share of hits", fontsize=8)
    axes.set_title(f"expected calibration error {error:.3g}", fontsize=9)
    figure.savefig(path, dpi=_DPI)


def draw_disturbances(undisturbed: float, disturbed: dict[str, float], metric: str, path: Path) -> None:
    """The metric on rows as they are and on rows made worse."""
    figure = blank_figure(5.0, 2.6)
    axes = figure.subplots()
    names, values = ["as they are", *disturbed], [undisturbed, *disturbed.values()]
    bars = axes.bar(range(len(names)), values, color=[_LINE, *[_BAR] * len(disturbed)])
    axes.bar_label(bars, fmt="%.4g", fontsize=7)
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_ylabel(metric, fontsize=8)
    figure.savefig(path, dpi=_DPI)
