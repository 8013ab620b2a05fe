"""Maps of explanations as pictures: a line of panels for each row."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from roadloop_cloud.drawing import blank_figure
from roadloop_cloud.explain.rows import Axes
from roadloop_models.runners import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Panel

_DPI = 110
_TITLE_CHARACTERS = 34
_CLEAR = 0.6
"""How much of the map covers the image below it."""


@dataclass(frozen=True)
class Panels:
    """One row: its title, what was seen, and a map from each method, by its name."""

    title: str
    image: npt.NDArray[np.uint8] | None
    maps: dict[str, FloatArray]


def draw_explanations(panels: Sequence[Panels], axes: Axes, title: str, path: Path) -> None:
    """Write one picture: red speaks for the answer, blue against it; each map has a scale of its own.

    Raises RuntimeMissingError where matplotlib is not installed.
    """
    images = panels[0].image is not None
    columns = len(panels[0].maps) + images
    size = (2.2, 2.3) if images else (5.5, 0.8 + 0.22 * len(axes.lines))
    figure = blank_figure(size[0] * columns, size[1] * len(panels) + 0.4)
    grid = figure.subplots(len(panels), columns, squeeze=False)
    for line, one in zip(grid, panels, strict=True):
        places = list(line)
        if one.image is not None:
            places[0].imshow(one.image)
            places[0].set_axis_off()
            places[0].set_title(textwrap.fill(one.title, _TITLE_CHARACTERS), fontsize=6, loc="left")
            places = places[1:]
        for panel, (name, values) in zip(places, one.maps.items(), strict=True):
            _draw_map(panel, values, one.image, axes)
            panel.set_title(name if images else f"{one.title}: {name}", fontsize=7, loc="left")
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=_DPI)


def _draw_map(panel: "Panel", values: FloatArray, image: npt.NDArray[np.uint8] | None, axes: Axes) -> None:
    limit = max(float(np.abs(values).max()), 1e-9)
    if image is not None:
        panel.imshow(image.mean(axis=2), cmap="gray", vmin=0, vmax=255)
        panel.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=_CLEAR)
        panel.set_axis_off()
        return
    panel.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    panel.set_yticks(range(len(axes.lines)), axes.lines, fontsize=6)
    panel.set_xticks(range(len(axes.columns)), axes.columns, fontsize=6)
