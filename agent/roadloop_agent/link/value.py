"""What telemetry is worth keeping: value = uncertainty x novelty x rarity, each between 0 and 1. Pure.

Every factor is 0.5 where nothing can be said, so that streams without a confidence or classes compare with the others:

- uncertainty of a row: 1 - the mean of its confidence fields
- rarity of a row: 1 / (1 + r), r being how often its class was seen on this vehicle over the mean of all classes seen:
  0.5 for a class as frequent as the mean, towards 1 for a rare one; the mean of it where a row has several class fields
- novelty of a batch: d2 / (1 + d2), d2 being the mean squared distance of its numeric (and confidence) means from those
  of the batches before, in units of their variance: 0.5 at one standard deviation

A batch's value is its novelty times the mean of uncertainty x rarity over its rows. What is a *highlight* is decided
against the values that came before it. Health is worth 1 and summaries 2 more than any bulk.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from roadloop_models.contract.messages import BLOB_STREAM
from roadloop_models.contract.streams import STREAMS, Keep, Stream

NEUTRAL = 0.5
_FLOOR = 0.02
"""Of each factor: a sure decision about something new must still compare with a sure one about nothing new."""
_WARM_BATCHES = 8
"""Before so many batches of a stream everything would be new: novelty is neutral."""
_MEMORY_BATCHES = 2000.0
"""How far back the means reach: each further batch weighs 1/2000."""
_MAX_CLASSES = 1024
_BINS = 64
_MEMORY_VALUES = 5000.0
_LARGEST = 1e12
"""A value beyond it is taken for unknown: its square must not swallow all others."""

_RANK: dict[Keep, float] = {"bulk": 0.0, "health": 1.0, "summary": 2.0}

FloatArray = npt.NDArray[np.float64]


class Worth(NamedTuple):
    """What a batch or item is worth keeping: 0..1 for bulk, above 1 for health, above 2 for summaries."""

    value: float = NEUTRAL**3
    highlight: bool = False
    """Metered links send it too."""


NOTHING_KNOWN = Worth()


class Sketch(msgspec.Struct):
    """What is remembered of one stream: weighted mean and variance of each numeric field, and how often each
    value of each class field."""

    batches: float = 0.0
    mean: list[float] = []
    variance: list[float] = []
    classes: list[dict[int, float]] = []
    values: list[float] = msgspec.field(default_factory=lambda: [0.0] * _BINS)
    """How many batches (of `blob`: items) had which value, in bins that are equal in its cube root."""


class Memory(msgspec.Struct):
    """All sketches. It can be rebuilt, and is kept where losing it costs little: the cache."""

    streams: dict[str, Sketch] = {}


class Appraiser:
    """Puts a value on batches and captured items. Owned by one thread."""

    def __init__(self, memory: Memory, highlight_share: float, streams: Mapping[str, Stream] = STREAMS) -> None:
        """`highlight_share`: of each stream's batches the most valuable share, which metered links send."""
        self.memory = memory
        self._share = highlight_share
        self._columns = {name: _Columns(stream) for name, stream in streams.items()}

    def batch(self, stream: str, rows: Sequence[Sequence[float]]) -> Worth:
        """What these rows are worth; they are remembered."""
        columns = self._columns[stream]
        if columns.keep != "bulk":
            return Worth(_RANK[columns.keep] + NEUTRAL**3, columns.keep == "summary")
        values = np.asarray(rows, dtype=np.float64)
        sketch = self.memory.streams.setdefault(stream, Sketch())
        novelty = columns.novelty(sketch, values)
        value = novelty * float(columns.interest(sketch, values).mean())
        columns.remember(sketch, values)
        return Worth(value, self._is_highlight(sketch, value))

    def item(self, stream: str, row: Sequence[float]) -> Worth:
        """What is worth that which was captured about this row; the row itself comes in a batch as well.

        Novelty is that of the row alone. Neutral throughout where the row does not fit the stream.
        """
        value = NEUTRAL**3
        columns = self._columns.get(stream)
        if columns is not None and len(row) == columns.width:
            values = np.asarray([row], dtype=np.float64)
            sketch = self.memory.streams.get(stream, Sketch())
            value = columns.novelty(sketch, values) * float(columns.interest(sketch, values)[0])
        return Worth(value, self._is_highlight(self.memory.streams.setdefault(BLOB_STREAM, Sketch()), value))

    def _is_highlight(self, sketch: Sketch, value: float) -> bool:
        """Whether it is among the best share of what came before it; nothing is before there is enough."""
        bin_index = min(_BINS - 1, int(value ** (1 / 3) * _BINS))
        total = sum(sketch.values)
        # Values of one bin cannot be told apart; half of them count as above.
        above = sum(sketch.values[bin_index + 1 :]) + 0.5 * sketch.values[bin_index]
        if total >= _MEMORY_VALUES:
            sketch.values = [count / 2 for count in sketch.values]
        sketch.values[bin_index] += 1.0
        return total * self._share >= 1.0 and above < self._share * total


class _Columns:
    """Which columns of a stream say what."""

    def __init__(self, stream: Stream) -> None:
        def having(*roles: str) -> list[int]:
            return [index for index, field in enumerate(stream.fields) if field.role in roles]

        self.width, self.keep = len(stream.fields), stream.keep
        self._confidence = having("confidence")
        self._class = having("class")
        self._numeric = having("numeric", "confidence")

    def interest(self, sketch: Sketch, values: FloatArray) -> FloatArray:
        """uncertainty x rarity of each row [rows]."""
        return np.asarray(self._uncertainty(values) * self._rarity(sketch, values))

    def novelty(self, sketch: Sketch, values: FloatArray) -> float:
        """How far the means of these rows are from what came before."""
        if not self._numeric or sketch.batches < _WARM_BATCHES or len(sketch.mean) != len(self._numeric):
            return NEUTRAL
        means = _means(values[:, self._numeric])
        known = ~np.isnan(means)
        if not known.any():
            return NEUTRAL
        mean, variance = np.array(sketch.mean), np.array(sketch.variance)
        # A field that never moved: a millionth of its size counts as no movement, anything more as a great one.
        spread = np.maximum(variance, np.square(1e-6 * (1.0 + np.abs(mean))))
        squared = float(np.mean((np.square(means - mean) / spread)[known]))
        return max(_FLOOR, squared / (1.0 + squared))

    def remember(self, sketch: Sketch, values: FloatArray) -> None:
        """Take these rows into the sketch."""
        self._remember_means(sketch, values)
        if len(sketch.classes) != len(self._class):
            sketch.classes = [{} for _ in self._class]
        for column, seen in zip(self._class, sketch.classes, strict=True):
            ids, counts = np.unique(_classes(values[:, column]), return_counts=True)
            for class_id, count in zip(ids.tolist(), counts.tolist(), strict=True):
                if class_id in seen or len(seen) < _MAX_CLASSES:
                    seen[class_id] = seen.get(class_id, 0.0) + count

    def _remember_means(self, sketch: Sketch, values: FloatArray) -> None:
        if not self._numeric:
            return
        means = _means(values[:, self._numeric])
        if len(sketch.mean) != len(means):  # new, or of an older version of the stream
            sketch.batches, sketch.mean, sketch.variance = 0.0, np.nan_to_num(means).tolist(), [0.0] * len(means)
        sketch.batches = min(sketch.batches + 1.0, _MEMORY_BATCHES)
        weight = 1.0 / sketch.batches
        mean, variance = np.array(sketch.mean), np.array(sketch.variance)
        delta = np.nan_to_num(means - mean)
        sketch.mean = (mean + weight * delta).tolist()
        sketch.variance = ((1.0 - weight) * (variance + weight * np.square(delta))).tolist()

    def _uncertainty(self, values: FloatArray) -> FloatArray:
        if not self._confidence:
            return np.full(len(values), NEUTRAL)
        confidence = np.nan_to_num(values[:, self._confidence], nan=NEUTRAL).clip(0.0, 1.0).mean(axis=1)
        return np.asarray(np.clip(1.0 - confidence, _FLOOR, 1.0))

    def _rarity(self, sketch: Sketch, values: FloatArray) -> FloatArray:
        if not self._class or len(sketch.classes) != len(self._class):
            return np.full(len(values), NEUTRAL)
        rarity = np.zeros(len(values))
        for column, seen in zip(self._class, sketch.classes, strict=True):
            ids, inverse = np.unique(_classes(values[:, column]), return_inverse=True)
            expected = sum(seen.values()) / len(seen)
            ratios = np.array([seen.get(class_id, 0.0) / expected for class_id in ids.tolist()])
            rarity += (1.0 / (1.0 + ratios))[inverse]
        return rarity / len(self._class)


def _means(values: FloatArray) -> FloatArray:
    """The mean of each column, what is unknown left out; NaN where there is nothing else."""
    known = np.abs(values) < _LARGEST  # false for NaN
    counts = known.sum(axis=0)
    sums = np.where(known, values, 0.0).sum(axis=0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _classes(column: FloatArray) -> npt.NDArray[np.int64]:
    """Class ids; what is none counts as -1."""
    return np.where(np.isfinite(column), np.clip(np.nan_to_num(column), -1, 1 << 31), -1).astype(np.int64)
