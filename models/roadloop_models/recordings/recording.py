"""One recorded drive: values of signals against source time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Recording:
    """Rows as they were recorded: nothing is sorted, resampled, or judged."""

    name: str
    t_s: FloatArray
    """float64 [rows], seconds on the recording's own clock."""
    values: Mapping[str, FloatArray]
    """VSS path -> float64 [rows] in the catalogue's unit; NaN in rows that do not have it."""

    def rows(self) -> Iterator[tuple[float, dict[str, float]]]:
        """(time, VSS path -> value) of each row, without the signals that it does not have."""
        paths = list(self.values)
        columns = [self.values[path].tolist() for path in paths]
        for t_s, *row in zip(self.t_s.tolist(), *columns, strict=True):
            yield t_s, {path: value for path, value in zip(paths, row, strict=True) if not isnan(value)}


def merged(name: str, parts: Sequence[tuple[FloatArray, Mapping[str, FloatArray]]]) -> Recording:
    """One recording of parts with time stamps of their own: a row for each time that any of them has, in order."""
    t_s = np.unique(np.concatenate([part_t_s for part_t_s, _ in parts]))
    values: dict[str, FloatArray] = {}
    for part_t_s, part in parts:
        rows = np.searchsorted(t_s, part_t_s)
        for path, column in part.items():
            values.setdefault(path, np.full(len(t_s), np.nan))[rows] = column
    return Recording(name, t_s, values)
