"""Which rows are trained on, validated with and tested on, so that nothing of one split is known from another. Pure.

What belongs together goes together: rows that share an identifier (a track, a drive, a vehicle, the very same picture)
are one group, whatever the split is by. A group's split follows from its name alone, so it is the same in every later
snapshot: what was tested on once is never trained on.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SplitBy = Literal["track", "drive", "vehicle", "time"]
_SALT = "roadloop split 1: "


@dataclass(frozen=True)
class Shares:
    """Which share of the groups, or of the time, is for what; the rest is trained on."""

    validation: float = 0.1
    """Of what is not tested on."""
    test: float = 0.0


@dataclass(frozen=True)
class Placed:
    """Where one row is: its split, and the group that shares it."""

    split: Split
    group: str


def by_name(bonds: Sequence[Sequence[str]], classes: Sequence[str], shares: Shares) -> list[Placed]:
    """Split rows by the names of their units: `bonds` are a row's identifiers, the first of them its unit.

    A group of several units is as protected as the most protected of them. A class (`classes`: one a row, "" for none)
    all of whose groups would be validated with is trained on instead; where nothing would be validated with although
    there are two groups or more, the group next in line is.
    """
    groups = _groups(bonds)
    units: dict[str, set[str]] = {}
    for group, bond in zip(groups, bonds, strict=True):
        units.setdefault(group, set()).add(bond[0])
    places = {group: min(_place(unit) for unit in members) for group, members in units.items()}
    splits: dict[str, Split] = {group: _split(place, shares) for group, place in places.items()}
    of_class: dict[str, set[str]] = {}
    for group, name in zip(groups, classes, strict=True):
        of_class.setdefault(name, set()).add(group)
    if shares.validation > 0 and "validation" not in splits.values():
        spare = [
            group
            for group, split in splits.items()
            if split == "train" and not any(len(of_class[name]) == 1 for name in of_class if group in of_class[name])
        ]
        if len(spare) > 1:
            splits[min(spare, key=lambda group: (places[group], group))] = "validation"
    for name in sorted(of_class):
        validated = [group for group in of_class[name] if splits[group] == "validation"]
        if name and validated and not any(splits[group] == "train" for group in of_class[name]):
            splits[max(validated, key=lambda group: (places[group], group))] = "train"
    return [Placed(splits[group], group) for group in groups]


def by_time(bonds: Sequence[Sequence[str]], times: Sequence[float], shares: Shares) -> list[Placed]:
    """Split rows by time: the last are tested on, those before validated with. A group goes where its last row goes."""
    groups = _groups(bonds)
    counts: dict[str, int] = {}
    last: dict[str, float] = {}
    for group, time in zip(groups, times, strict=True):
        counts[group] = counts.get(group, 0) + 1
        last[group] = max(time, last.get(group, -math.inf))
    splits: dict[str, Split] = {}
    left = len(groups)
    # As protocols and training cut a record: what is before the cut is a whole number of rows, rounded down.
    tested = int(left * (1 - shares.test))
    validated = int(tested * (1 - shares.validation))
    for group in sorted(counts, key=lambda group: (-last[group], group)):
        splits[group] = "test" if left > tested else "validation" if left > validated else "train"
        left -= counts[group]
    if "train" not in splits.values() and splits:
        splits = dict.fromkeys(splits, "train")
    return [Placed(splits[group], group) for group in groups]


def _place(unit: str) -> float:
    """Where a name falls in [0, 1): the same for ever, and evenly spread."""
    return int.from_bytes(hashlib.sha256((_SALT + unit).encode()).digest()[:7]) / (1 << 56)


def _split(place: float, shares: Shares) -> Split:
    if place < shares.test:
        return "test"
    return "validation" if place < shares.test + (1 - shares.test) * shares.validation else "train"


def _groups(bonds: Sequence[Sequence[str]]) -> list[str]:
    """Each row's group: rows that share an identifier, also through others, have the same. Its first unit names it."""
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        parents.setdefault(name, name)
        while parents[name] != name:
            parents[name] = parents[parents[name]]
            name = parents[name]
        return name

    _join(bonds, root, parents)
    names: dict[str, str] = {}
    for bond in bonds:
        top = root(bond[0])
        names[top] = min(bond[0], names.get(top, bond[0]))
    return [names[root(bond[0])] for bond in bonds]


def _join(bonds: Sequence[Sequence[str]], root: Callable[[str], str], parents: dict[str, str]) -> None:
    for bond in bonds:
        first = root(bond[0])
        for other in bond[1:]:
            parents[root(other)] = first
            first = root(first)
