"""Stands for a twin's drive process: runs what it is told to, decides nothing, and says how that went.

It speaks the same messages as drive/process.py and starts from the same store, so a version on trial costs a try here
too.
"""

from collections.abc import Callable, Mapping

from roadloop_agent.ipc import FromDrive, FromLink, Hello, RunningSlot, Samples, SlotHealth, Switch, Switched
from roadloop_agent.sim.scenario import Fate
from roadloop_agent.update.service import SlotSpec
from roadloop_agent.update.store import Store
from roadloop_models.contract.messages import ErrorInfo, ReleaseRef
from roadloop_models.contract.streams import HEALTH
from roadloop_models.errors import FailedError
from roadloop_models.typed import from_msgpack

LATENCY_US = 200.0
SLOW = 100.0
"""What a release that is bad in `latency` takes, in units of the others' latency."""


class TwinDrive:
    """One start of drive. `say` takes its messages, and is set before it starts; `random` in [0, 1)."""

    def __init__(
        self,
        *,
        boot: int,
        slots: Mapping[str, SlotSpec],
        store: Store,
        fate: Fate,
        random: Callable[[], float],
    ) -> None:
        self.say: Callable[[FromDrive], None] = lambda message: None
        self._boot = boot
        self._slots = dict(slots)
        self._fate = fate
        self._random = random
        self._runs: dict[str, ReleaseRef] = {slot: store.load_for_start(slot).ref for slot in slots}
        self._told = 0
        self._owed = dict.fromkeys(slots, 0.0)

    def start(self) -> None:
        """Introduce itself."""
        self.say(Hello(boot=self._boot, slots={slot: self._running(slot) for slot in self._slots}))

    def try_send(self, payload: bytes) -> bool:
        """A message of link; see link.process.ToDrive. Shadows are not played: a candidate there stays loading."""
        message = from_msgpack(payload, FromLink)
        if isinstance(message, Switch):
            self._runs[message.slot] = message.ref
            running = self._running(message.slot)
            self.say(
                Switched(
                    boot=self._boot,
                    slot=message.slot,
                    ref=message.ref,
                    ok=True,
                    runtime=running.runtime,
                    precision=running.precision,
                    providers=running.providers,
                )
            )
        return True

    def tell(self, passed_s: float, wall_ms: int) -> Samples:
        """Say how each slot did in that time; the same as samples of telemetry."""
        rows = []
        for index, slot in enumerate(self._slots):
            health = self._health(slot, passed_s)
            self.say(health)
            release = 0 if health.ref is None else health.ref.release
            counted = (health.decisions, health.errors, health.latency_mean_us, health.latency_max_us)
            rows.append([float(index), float(release), *counted, 0.0, 90.0, 0.0, 0.0, 0.0, 1.0, 0.0, 40.0])
        first_seq, self._told = self._told + 1, self._told + len(rows)
        return Samples(boot=self._boot, stream=HEALTH.name, first_seq=first_seq, t_ms=[wall_ms] * len(rows), rows=rows)

    def _health(self, slot: str, passed_s: float) -> SlotHealth:
        ref = self._runs[slot]
        bad = self._fate.of_version(ref.task, ref.version)
        owed = self._owed[slot] + passed_s * self._fate.rates.decisions_per_s
        attempts = int(owed)
        self._owed[slot] = owed - attempts
        share = bad.share if bad is not None and bad.effect == "errors" else 0.0
        errors = sum(self._random() < share for _ in range(attempts)) if share else 0
        latency_us = LATENCY_US * (0.9 + 0.2 * self._random())
        if bad is not None and bad.effect == "latency":
            latency_us *= SLOW
        return SlotHealth(
            boot=self._boot,
            slot=slot,
            ref=ref,
            decisions=attempts - errors,
            errors=errors,
            latency_mean_us=round(latency_us, 1) if attempts > errors else 0.0,
            latency_max_us=round(2 * latency_us, 1) if attempts > errors else 0.0,
            confidence_mean=None if attempts == errors else 0.9,
            dropped=0,
            idle=False,
            last_error=ErrorInfo(code=FailedError.code, detail="made by the scenario") if errors else None,
        )

    def _running(self, slot: str) -> RunningSlot:
        spec = self._slots[slot]
        return RunningSlot(
            task=spec.task,
            ref=self._runs[slot],
            runtime=spec.runtime,
            precision=spec.precision,
            providers=spec.providers,
        )
