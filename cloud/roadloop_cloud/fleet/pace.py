"""How fast something may be sent: an allowance in bytes that time fills and sending empties. Time is passed in."""

from dataclasses import dataclass

_BURST_S = 0.25


@dataclass
class Pace:
    """What is sent may take more than the allowance; the next has to wait for it."""

    bytes_per_s: float
    allowance_bytes: float
    refilled_s: float

    @classmethod
    def full(cls, bytes_per_s: float, now_s: float) -> "Pace":
        """One that nothing was taken from."""
        pace = cls(bytes_per_s, 0.0, now_s)
        pace.allowance_bytes = pace.burst_bytes
        return pace

    @property
    def burst_bytes(self) -> float:
        """The most that is saved up: a quarter of a second."""
        return max(self.bytes_per_s * _BURST_S, 1.0)

    def refill(self, now_s: float) -> None:
        """Time has passed."""
        earned = (now_s - self.refilled_s) * self.bytes_per_s
        self.allowance_bytes = min(self.allowance_bytes + earned, self.burst_bytes)
        self.refilled_s = now_s

    def spend(self, size_bytes: int) -> None:
        """So much was sent."""
        self.allowance_bytes -= size_bytes

    @property
    def may_send(self) -> bool:
        """Whether there is an allowance; less than a byte is the rounding of time."""
        return self.allowance_bytes > -1.0

    def ready_s(self) -> float:
        """When there is an allowance again."""
        return self.refilled_s + max(0.0, -self.allowance_bytes) / self.bytes_per_s

    def full_s(self) -> float:
        """When the allowance is full again."""
        return self.refilled_s + max(0.0, self.burst_bytes - self.allowance_bytes) / self.bytes_per_s
