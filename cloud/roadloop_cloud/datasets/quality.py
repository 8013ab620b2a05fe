"""What is odd about rows, named so that a person can look at them. Pure.

A finding changes nothing by itself: what is left out is said by the builder that leaves it out, and counted there too.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

MOST_NAMED = 20
STUCK_STEPS = 36
"""A sensor that shows the same value for three hours: in losloop six of 207 sensors do so once in a week."""
FAR_MPH = 15.0
"""A vehicle that differs by more from the median of others ..."""
FAR_SHARE = 0.25
"""... in more than this share of what others saw too, is named."""
FEWEST_TRACKS = 2

KeyT = TypeVar("KeyT", bound=Hashable)


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of oddness."""

    check: str
    count: int
    rows: tuple[str, ...]
    """Names of the first of them."""
    left_out: bool = False
    detail: str = ""


def finding(check: str, names: Iterable[str], *, left_out: bool = False, detail: str = "") -> Finding | None:
    """A finding of these rows; None where there are none."""
    found = sorted(names)
    if not found:
        return None
    return Finding(check=check, count=len(found), rows=tuple(found[:MOST_NAMED]), left_out=left_out, detail=detail)


def found(*findings: Finding | None) -> tuple[Finding, ...]:
    """Those that are there."""
    return tuple(one for one in findings if one is not None)


def grouped(pairs: Iterable[tuple[KeyT, str]]) -> Mapping[KeyT, Sequence[str]]:
    """Names by key."""
    groups: dict[KeyT, list[str]] = {}
    for key, name in pairs:
        groups.setdefault(key, []).append(name)
    return groups


def mixed(pairs: Iterable[tuple[KeyT, str]], label: Callable[[str], str]) -> list[str]:
    """Names that share a key with others of another label."""
    return [name for names in grouped(pairs).values() if len({label(name) for name in names}) > 1 for name in names]


def stuck(values: npt.NDArray[np.float32], steps: npt.NDArray[np.int64]) -> list[str]:
    """`sensor 7, steps 100..140, 65` for each unbroken run of STUCK_STEPS equal values; values [steps, sensors]."""
    named = []
    unbroken = np.diff(steps) == 1
    for sensor in range(values.shape[1]):
        column = values[:, sensor]
        ends = np.flatnonzero((np.diff(column) != 0) | ~unbroken)
        edges = np.concatenate([[-1], ends, [len(column) - 1]])
        for index in np.flatnonzero(np.diff(edges) >= STUCK_STEPS):
            first, last = edges[index] + 1, edges[index + 1]
            named.append(f"sensor {sensor}, steps {steps[first]}..{steps[last]}, {column[first]:g}")
    return named


def far_vehicles(
    cells: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    vehicles: npt.NDArray[np.int64],
    names: Sequence[str],
) -> list[str]:
    """`car-3, 1200 of 2000` for vehicles far from the median of cells that three or more saw; one entry a value."""
    order = np.lexsort((values, cells))
    cells, values, vehicles = cells[order], values[order], vehicles[order]
    _, start, place, count = np.unique(cells, return_index=True, return_inverse=True, return_counts=True)
    median = values[start + (count - 1) // 2]
    shared = count[place] >= 3
    far = shared & (np.abs(values - median[place]) > FAR_MPH)
    named = []
    for index, name in enumerate(names):
        mine = vehicles == index
        seen, off = int((mine & shared).sum()), int((mine & far).sum())
        if seen and off > FAR_SHARE * seen:
            named.append(f"{name}, {off} of {seen}")
    return named
