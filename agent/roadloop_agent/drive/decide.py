"""Whether a frame is worth sending, and whether there is room for it. Pure."""


def wants_capture(confidence: float, count: int, below_confidence: float, every: int) -> bool:
    """Whether the `count`-th frame of a slot (from 1) is worth sending: unsure about it, or its turn."""
    return confidence < below_confidence or (every > 0 and count % every == 0)


class ByteBudget:
    """So many bytes a second, saved up for at most `burst_s` seconds; one item may overdraw it."""

    def __init__(self, bytes_per_s: int, burst_s: float = 10.0) -> None:
        self._bytes_per_s = bytes_per_s
        self._limit = bytes_per_s * burst_s
        self._left = self._limit
        self._at_s: float | None = None

    def allows(self, now_s: float) -> bool:
        """Whether anything is left at `now_s` (monotonic)."""
        if self._at_s is not None:
            self._left = min(self._limit, self._left + (now_s - self._at_s) * self._bytes_per_s)
        self._at_s = now_s
        return self._left > 0

    def spend(self, size_bytes: int) -> None:
        """Take the bytes of one item."""
        self._left -= size_bytes
