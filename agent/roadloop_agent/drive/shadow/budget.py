"""What a shadow may cost: processor time as credit that comes at a fixed rate. Pure."""

from dataclasses import dataclass, field

SAVED_S = 5.0
"""Credit of so many seconds is kept at most: after a pause no burst follows that others would notice."""


@dataclass
class Budget:
    """`share` of one core. A frame may overdraw it; the next one then waits until that is made up for."""

    share: float
    now_s: float
    _credit_s: float = field(default=0.0)

    def allows(self, now_s: float) -> bool:
        """Whether another frame may be looked at, at `now_s` (monotonic)."""
        self._credit_s = min(self._credit_s + self.share * (now_s - self.now_s), self.share * SAVED_S)
        self.now_s = now_s
        return self._credit_s > 0.0

    def spend(self, cpu_s: float) -> None:
        """So much processor time was used."""
        self._credit_s -= cpu_s

    @property
    def wait_s(self) -> float:
        """How long until there is credit again, as things stand."""
        return max(0.0, -self._credit_s) / self.share + 0.001
