"""What a condition sees of a moment: the sample, its scores, and the vehicle's signals. The same on both sides."""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from roadloop_models.campaigns.novelty import Novelty, image_features, row_features
from roadloop_models.campaigns.positions import coarse
from roadloop_models.campaigns.watched import NOVELTY, Watched, told
from roadloop_models.signals import SignalFrame

FRESH_S = 2.0
"""A frame of another source sees signals of this age at most."""


class SignalCapture(Protocol):
    """A captured frame of signals."""

    @property
    def t_mono_s(self) -> float:
        """When it was captured."""

    @property
    def data(self) -> SignalFrame:
        """The signals."""


class Board:
    """The vehicle's signals as they were last, with coarse positions: nothing behind it knows better ones."""

    def __init__(self, position_m: float) -> None:
        self._position_m = position_m
        self._values: dict[str, tuple[float, float]] = {}

    def put(self, frame: SignalCapture) -> dict[str, float]:
        """The next frame of a source; its signals as they may be seen."""
        values = coarse(frame.data.values, self._position_m)
        self._values |= {path: (frame.t_mono_s, value) for path, value in values.items()}
        return values

    def now(self, t_mono_s: float) -> dict[str, float]:
        """The signals at that time that are fresh."""
        return {path: value for path, (at_s, value) in self._values.items() if abs(t_mono_s - at_s) <= FRESH_S}


class Sight:
    """One slot's."""

    def __init__(self, watched: Watched, novelty: Novelty | None) -> None:
        """`novelty`: None where nobody asks for it."""
        self._watched = watched
        self._novelty = novelty

    @property
    def stream(self) -> str:
        """The stream whose samples are the decisions."""
        return self._watched.stream.name

    def values(
        self, row: Sequence[float], image: npt.NDArray[np.uint8] | None, signals: Mapping[str, float]
    ) -> dict[str, float]:
        """Of a decision's sample, its image where it is about one, and the vehicle's signals then."""
        values = {**signals, **told(self._watched.stream, row)}
        if self._novelty is not None:
            features = row_features(self._watched.stream, row) if image is None else image_features(image)
            values[NOVELTY] = self._novelty.score(features)
        return {name: value for name, value in values.items() if not math.isnan(value)}
