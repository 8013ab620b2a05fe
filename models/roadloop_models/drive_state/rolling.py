"""The last minute of OBD signals, put on a grid of half seconds as they come."""

import math

import numpy as np
import numpy.typing as npt

from roadloop_models.drive_state.signals import COUNT
from roadloop_models.drive_state.window import RATE_HZ, ROWS

FloatArray = npt.NDArray[np.float32]

HOLD_ROWS = 4
"""A row that no frame fell into repeats the one before, for 2 s; behind that the signals are unknown."""
_EDGE = 1e-6
"""A frame that is due at a row's beginning belongs to it, whatever rounding did to its time."""


class RollingWindow:
    """Rows by source time: row k holds the first frame at or after k / 2 s. It begins anew where time jumps.

    A jump is a step back, or one of more than a whole window.
    """

    def __init__(self) -> None:
        self._rows = np.full((ROWS, COUNT), np.nan, dtype=np.float32)
        self._start_s = math.nan
        self._newest = -1

    def add(self, t_s: float, values: FloatArray) -> bool:
        """Take a frame's values [signals], NaN where unknown; returns whether it began a new row."""
        row = math.floor((t_s - self._start_s) * RATE_HZ + _EDGE) if self._newest >= 0 else 0
        passed = row - self._newest
        if self._newest < 0 or passed < 0 or passed > ROWS:
            self._rows.fill(np.nan)
            self._start_s, row, passed = t_s, 0, 1
        if passed == 0:
            return False
        held = self._rows[-1].copy()
        self._rows[:-passed] = self._rows[passed:]
        self._rows[-passed:] = np.nan
        self._rows[ROWS - passed : ROWS - passed + HOLD_ROWS] = held
        self._rows[-1] = values
        self._newest = row
        return True

    @property
    def full(self) -> bool:
        """Whether a whole window has passed since the first frame."""
        return self._newest >= ROWS - 1

    @property
    def values(self) -> FloatArray:
        """float32 [120, 16] in the catalogue's units, oldest first; NaN where unknown."""
        return self._rows.copy()
