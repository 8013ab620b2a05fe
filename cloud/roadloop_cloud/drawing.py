"""Pictures without a window system."""

from typing import TYPE_CHECKING

from roadloop_models.errors import RuntimeMissingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def blank_figure(width_in: float, height_in: float) -> "Figure":
    """Nothing yet, so many inches large. Raises RuntimeMissingError where matplotlib is not installed."""
    # The canvas alone, without pyplot: no window system is looked for, and nothing global is changed.
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RuntimeMissingError(f"pictures need matplotlib ({error}); install roadloop[cloud,train]") from error
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
