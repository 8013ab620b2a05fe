"""Signals of decisions on their way to link, which makes sketches of them: rows are gathered, never waited for."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from roadloop_agent.drive.pipeline import Model
from roadloop_agent.ipc import MAX_ROWS, FromDrive, Observed
from roadloop_models.contract.messages import ReleaseRef

FLUSH_ROWS = 128
FLUSH_S = 1.0
KEPT_ROWS = 4096
"""Of one slot while link is away; then the oldest go. A sketch of an hour is hardly the worse for it."""

Send = Callable[[FromDrive], bool]
"""False where there is no room now."""


@dataclass
class _Gathered:
    slot: str
    ref: ReleaseRef
    bundle_dir: str
    since_s: float
    t_ms: list[int] = field(default_factory=list)
    rows: list[list[float]] = field(default_factory=list)


class Observer:
    """Shared by the threads of drive. What cannot be sent is kept up to a bound, and then counted as dropped."""

    def __init__(self, boot: int, send: Send, clock: Callable[[], float]) -> None:
        self._boot = boot
        self._send = send
        self._clock = clock
        self._lock = threading.Lock()
        self._gathered: dict[tuple[str, str], _Gathered] = {}
        self.dropped = 0

    def add(self, slot: str, model: Model, t_ms: int, row: list[float]) -> None:
        """Take the signals of one decision. A model that is no release has nobody who asks about its drift."""
        ref = model.ref
        if ref is None:
            return
        with self._lock:
            key = (slot, ref.manifest_sha256)
            gathered = self._gathered.get(key)
            if gathered is None:
                gathered = _Gathered(slot, ref, str(model.bundle.directory), self._clock())
                self._gathered[key] = gathered
            gathered.t_ms.append(t_ms)
            gathered.rows.append(row)
            if len(gathered.rows) > KEPT_ROWS:
                del gathered.t_ms[0], gathered.rows[0]
                self.dropped += 1

    def flush(self, ended: bool = False) -> None:
        """Send what is enough, or has waited long enough; all of it when drive has `ended`."""
        now_s = self._clock()
        with self._lock:
            for key, gathered in list(self._gathered.items()):
                due = ended or len(gathered.rows) >= FLUSH_ROWS or now_s - gathered.since_s >= FLUSH_S
                if due and self._send_all(gathered):
                    del self._gathered[key]

    def _send_all(self, gathered: _Gathered) -> bool:
        """False where something is left, for want of room."""
        while gathered.rows:
            t_ms, rows = gathered.t_ms[:MAX_ROWS], gathered.rows[:MAX_ROWS]
            message = Observed(
                boot=self._boot,
                slot=gathered.slot,
                ref=gathered.ref,
                bundle_dir=gathered.bundle_dir,
                from_ms=min(t_ms),
                to_ms=max(t_ms),
                rows=rows,
            )
            if not self._send(message):
                return False
            del gathered.t_ms[: len(rows)], gathered.rows[: len(rows)]
        return True
