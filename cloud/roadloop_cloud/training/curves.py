"""The course of a training as a picture for the model card. Equal runs give equal bytes."""

import io
from collections.abc import Sequence

from roadloop_cloud.training.train import EpochFigures

_INCHES, _DPI = (6.4, 3.2), 100
_LOSS, _SCORE = "#1f5fa8", "#c0561f"


def draw_curves(
    trained: Sequence[EpochFigures], refitted: Sequence[EpochFigures], score_name: str, best_epoch: int
) -> bytes:
    """PNG: the mean loss of every epoch of both runs, the validation score, and the epoch that it chose."""
    # The canvas alone, without pyplot: no window system is looked for, and nothing global is changed.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    losses = figure.add_subplot()
    losses.plot(range(1, len(trained) + 1), [row.loss for row in trained], color=_LOSS, marker=".", label="loss")
    if refitted:
        numbers = range(1, len(refitted) + 1)
        losses.plot(numbers, [row.loss for row in refitted], color=_LOSS, linestyle=":", label="loss on all rows")
    losses.set_xlabel("epoch")
    losses.set_ylabel("mean loss")
    losses.xaxis.set_major_locator(MaxNLocator(integer=True))
    losses.grid(alpha=0.3)
    scored = [(epoch, row.score) for epoch, row in enumerate(trained, start=1) if row.score is not None]
    if scored:
        scores = losses.twinx()
        scores.plot(*zip(*scored, strict=True), color=_SCORE, marker=".", label=score_name)
        scores.axvline(best_epoch, color=_SCORE, linestyle="--", linewidth=0.8)
        scores.set_ylabel(score_name)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
