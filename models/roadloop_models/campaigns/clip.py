"""Clips of signals: an npz that the feed `npz` of a `signals` source replays (docs/signals.md)."""

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np

MEDIA_TYPE = "application/x-npz"
TIME = "t"
"""The array with the seconds of source time; the others are named as the VSS paths, NaN where a value is unknown."""

Signals = tuple[float, Mapping[str, float]]
"""(source seconds, VSS path -> value)."""


def pack(moments: Sequence[Signals]) -> bytes:
    """The npz of these moments: float64 [n] for the time, float32 [n] for each path that any of them knows."""
    paths = sorted({path for _, values in moments for path, value in values.items() if not math.isnan(value)})
    columns = {
        path: np.array([values.get(path, math.nan) for _, values in moments], dtype=_dtype(path)) for path in paths
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **{TIME: np.array([t_s for t_s, _ in moments])}, **columns)
    return buffer.getvalue()


def _dtype(path: str) -> type[np.floating]:
    # A degree in float32 is exact to half a metre only.
    return np.float64 if path.endswith("itude") else np.float32
