"""Pictures of drift: how signals are distributed now and where the release was made, and how far apart over time."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from roadloop_cloud.drawing import blank_figure
from roadloop_cloud.drift.decide import Finding
from roadloop_models.errors import ConfigError
from roadloop_models.sketches import distance
from roadloop_models.sketches.reference import SignalReference
from roadloop_models.sketches.signals import signal_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg", ".pdf")
_REFERENCE, _NOW, _LIMIT = "#9aa5b1", "#d1495b", "#30323d"
_INCHES = (10.0, 2.6)


@dataclass(frozen=True)
class Portrait:
    """What is drawn of one signal of one cohort."""

    finding: Finding
    reference: SignalReference
    counts: tuple[int, ...]
    """Of the last window, in the reference's bins."""
    history: tuple[tuple[datetime, float, float], ...]
    """(end of a window, its distance from the reference, above which it would have been an alarm)."""
    since: datetime | None
    """Where the change began; None where there is none."""


def check_picture(path: Path) -> None:
    """Raises ConfigError where no picture can be written there."""
    if path.suffix not in FORMATS:
        raise ConfigError(f"{path}: a picture is one of {', '.join(FORMATS)}")


def draw(portraits: list[Portrait], title: str, path: Path) -> None:
    """Write one picture, a row a signal: distribution functions on the left, distance over time on the right.

    Raises ConfigError as `check_picture`, RuntimeMissingError where matplotlib is not installed.
    """
    check_picture(path)
    figure = blank_figure(_INCHES[0], _INCHES[1] * len(portraits) + 0.6)
    axes = figure.subplots(len(portraits), 2, squeeze=False)
    for (left, right), portrait in zip(axes, portraits, strict=True):
        _distributions(left, portrait)
        _over_time(right, portrait)
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)


def _distributions(axes: "Axes", portrait: Portrait) -> None:
    reference, finding = portrait.reference, portrait.finding
    edges = np.asarray(reference.edges)
    for counts, colour, label in (
        (reference.counts, _REFERENCE, "where the release was made"),
        (portrait.counts, _NOW, "the last window"),
    ):
        axes.step(edges, distance.cumulative(counts)[:-1], where="post", color=colour, label=label, linewidth=1.6)
    known = signal_of(finding.cohort.task, finding.signal)
    axes.set_title(f"{finding.signal}: {known.about if known else ''}", fontsize=9, loc="left")
    axes.set_ylabel("share at most", fontsize=8)
    axes.set_ylim(-0.03, 1.03)
    _plain(axes)


def _over_time(axes: "Axes", portrait: Portrait) -> None:
    from matplotlib import dates

    days: Any = dates  # says nothing of its types
    finding, locator = portrait.finding, days.AutoDateLocator(maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(days.ConciseDateFormatter(locator))
    if portrait.history:
        times, apart, limits = zip(*portrait.history, strict=True)
        axes.plot(days.date2num(times), apart, color=_NOW, marker="." if len(times) < 30 else None, linewidth=1.4)
        axes.plot(days.date2num(times), limits, color=_LIMIT, linestyle="--", linewidth=1.0)
    if portrait.since is not None:
        axes.axvline(days.date2num(portrait.since), color=_LIMIT, linestyle=":", linewidth=1.0)
    axes.set_ylim(0, 1.03)
    verdict = "drifted" if finding.drifted else "no drift"
    limit = f"alarm above {finding.threshold:.2f}" if finding.threshold < 1 else "too little seen to raise an alarm"
    axes.set_title(
        f"{verdict}: distance {finding.ks:.2f}, {limit}, PSI {finding.psi:.2f}",
        fontsize=9,
        loc="left",
    )
    _plain(axes)


def _plain(axes: "Axes") -> None:
    axes.tick_params(labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
