"""What two snapshots of a task have in common, and what not. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from roadloop_cloud.datasets.origins import RowOrigin

MOST_NAMED = 20


@dataclass(frozen=True)
class Difference:
    """From an earlier snapshot to a later one: counts of rows, and names of the first where a person has to look."""

    same: int
    added: int
    removed: int
    by_vehicle: dict[str, int]
    """Vehicle -> rows that it gained or lost."""
    relabelled: tuple[str, ...]
    """Rows that are called something else now: `key: before -> after (who says so)`."""
    moved: tuple[str, ...]
    """Rows that are in another split now: `key: before -> after`."""
    leaked: tuple[str, ...]
    """Rows that one of the two trains on, and the other tests on or validates with."""


def compare(before: Sequence[RowOrigin], after: Sequence[RowOrigin]) -> Difference:
    """Compare by the rows' keys."""
    old, new = {row.key: row for row in before}, {row.key: row for row in after}
    both = sorted(old.keys() & new.keys())
    balance = Counter(new[key].vehicle for key in new.keys() - old.keys())
    balance.subtract(Counter(old[key].vehicle for key in old.keys() - new.keys()))
    relabelled = [key for key in both if old[key].label != new[key].label]
    moved = [key for key in both if old[key].split != new[key].split]
    leaked = [key for key in moved if "train" in (old[key].split, new[key].split)]
    return Difference(
        same=len(both) - len(set(relabelled) | set(moved)),
        added=len(new.keys() - old.keys()),
        removed=len(old.keys() - new.keys()),
        by_vehicle={name or "several": count for name, count in sorted(balance.items()) if count},
        relabelled=tuple(
            f"{key}: {old[key].label} -> {new[key].label} ({new[key].origin}: {new[key].by})"
            for key in relabelled[:MOST_NAMED]
        ),
        moved=tuple(f"{key}: {old[key].split} -> {new[key].split}" for key in moved[:MOST_NAMED]),
        leaked=tuple(leaked[:MOST_NAMED]),
    )
