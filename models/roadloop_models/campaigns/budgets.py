"""What campaigns have spent today. It survives restarts: what is saved runs ahead of what is spent. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass

from roadloop_models.campaigns.campaign import Budget
from roadloop_models.day import Day

_RESERVES = 64
"""A day's budget is saved in so many steps: not for every item, and a kill gives nothing back."""


@dataclass
class _Spent:
    bytes: int = 0
    hits: int = 0
    saved_bytes: int = -1
    saved_hits: int = -1


class Budgets:
    """Keys are slot/campaign. Owned by one thread."""

    def __init__(self, facts: Mapping[str, float]) -> None:
        """`facts`: what `facts()` gave last; empty at the first start."""
        self._day = Day(facts)
        self._spent: dict[str, _Spent] = {}
        for name, value in facts.items():
            kind, _, key = name.partition(":")
            if key and kind in ("bytes", "hits"):
                setattr(self._of(key), kind, int(value))

    def tick(self, mono_s: float, wall_s: float) -> None:
        """Time has passed; see Day."""
        if self._day.tick(mono_s, wall_s):
            self._spent.clear()

    def take_hit(self, key: str, budget: Budget) -> bool:
        """Count a hit where the day has room for it."""
        spent = self._of(key)
        if spent.hits >= budget.hits_per_day or spent.bytes >= budget.bytes_per_day:
            return False
        spent.hits += 1
        return True

    def has_bytes(self, key: str, budget: Budget) -> bool:
        """Whether anything is left."""
        return self._of(key).bytes < budget.bytes_per_day

    def spend(self, key: str, size_bytes: int) -> None:
        """An item of so many bytes is about to be sent."""
        self._of(key).bytes += size_bytes

    @property
    def is_unsaved(self) -> bool:
        """Whether more was spent than the last `facts` said."""
        return any(one.bytes > one.saved_bytes or one.hits > one.saved_hits for one in self._spent.values())

    def facts(self, limits: Mapping[str, Budget], ended: bool = False) -> dict[str, float]:
        """What the next process has to know, durably, before more is sent; until a clean end a little more than is
        true."""
        facts = self._day.facts()
        for key, one in self._spent.items():
            limit = limits.get(key)
            ahead = 0 if ended or limit is None else 1
            one.saved_bytes = one.bytes + ahead * (limit.bytes_per_day // _RESERVES if limit else 0)
            one.saved_hits = one.hits + ahead * (limit.hits_per_day // _RESERVES if limit else 0)
            facts |= {f"bytes:{key}": float(one.saved_bytes), f"hits:{key}": float(one.saved_hits)}
        return facts

    def _of(self, key: str) -> _Spent:
        return self._spent.setdefault(key, _Spent())
