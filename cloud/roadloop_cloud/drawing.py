"""Pictures without a window system."""

from typing import TYPE_CHECKING

from roadloop_models.errors import RuntimeMissingError

if TYPE_CHECKING:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure


def check_drawing() -> None:
    """For before anything is written that shall have pictures: raises as `blank_figure`."""
    _load()


def blank_figure(width_in: float, height_in: float) -> "Figure":
    """Nothing yet, so many inches large. Raises RuntimeMissingError where matplotlib is not installed."""
    figures, canvases = _load()
    figure = figures(figsize=(width_in, height_in), layout="constrained")
    canvases(figure)
    return figure


def _load() -> "tuple[type[Figure], type[FigureCanvasAgg]]":
    # The canvas alone, without pyplot: no window system is looked for, and nothing global is changed.
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RuntimeMissingError(f"pictures need matplotlib ({error}); install roadloop[cloud,train]") from error
    return Figure, FigureCanvasAgg
