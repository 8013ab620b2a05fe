"""The update service on a staged vehicle, with a drive that loads what it is told and reports its health."""

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from roadloop_agent.ipc import Hello, RunningSlot, ShadowWish, SlotHealth, Switched
from roadloop_agent.update.conditions import Facts, Surroundings
from roadloop_agent.update.selftest import Check, SelfTest
from roadloop_agent.update.service import SlotSpec, UpdateService
from roadloop_agent.update.shadows import ShadowFile, Shadows
from roadloop_agent.update.store import open_version
from roadloop_models.contract.messages import Desired, Policy, ReleaseRef, ReportedSlot, UpdateState
from roadloop_models.errors import BundleError
from tests.fakes.opaque_bundles import TASK, VARIANT
from tests.fakes.staged_vehicle import SLOT, StagedVehicle

POLICY = Policy(health_window_s=0.05, max_error_rate=0.1)
DEADLINE_S = 20.0


def passes(check: Check, cancelled: Callable[[], bool]) -> None:
    """A self-test that only looks at the files."""
    assert (Path(check.directory) / "model.onnx").exists()


@dataclass
class Rig:
    """`hooks` are called before what they are named for; a test kills the process or fails there."""

    vehicle: StagedVehicle
    selftest: SelfTest = passes
    errors_of: Callable[[ReleaseRef], int] = lambda ref: 0
    loads: Callable[[ReleaseRef], bool] = lambda ref: True
    running: ReleaseRef | None = None
    reports: "queue.SimpleQueue[ReportedSlot]" = field(default_factory=queue.SimpleQueue)
    history: list[ReportedSlot] = field(default_factory=list)
    report_hook: Callable[[ReportedSlot], None] = lambda slot: None
    switch_hook: Callable[[ReleaseRef], None] = lambda ref: None
    surroundings: Surroundings = Facts
    wishes: list[ShadowWish] = field(default_factory=list)
    """What drive was asked to run in the shadow."""

    def __post_init__(self) -> None:
        vehicle = self.vehicle
        slots = {SLOT: SlotSpec(TASK, "onnx", "int8")}
        self.service = UpdateService(
            slots=slots,
            store=vehicle.store,
            delivery=vehicle.delivery,
            fetcher=vehicle.fetcher,
            selftest=self.selftest,
            report=self._report,
            switch=self._switch,
            shadows=Shadows(
                slots=slots,
                file=ShadowFile(vehicle.directory / "state" / "shadows.json"),
                store=vehicle.store,
                delivery=vehicle.delivery,
                selftest=self.selftest,
                ask=self._ask,
                mono=time.monotonic,
                random=lambda: 0.0,
            ),
            mono=time.monotonic,
            random=lambda: 0.0,
            surroundings=self.surroundings,
            tick_s=0.02,
        )

    def start(self) -> None:
        """Start the service and a drive that loads what the store says."""
        self.service.start()
        self.start_drive()

    def start_drive(self) -> None:
        """A start of drive: it asks the store and introduces itself."""
        version = self.vehicle.store.load_for_start(SLOT)
        if not self.loads(version.ref):
            raise BundleError("this drive cannot start")
        self.running = version.ref
        running = RunningSlot(task=TASK, ref=version.ref, runtime="onnx", precision="int8", providers=("CPU",))
        self.service.on_hello(Hello(boot=1, slots={SLOT: running}))
        self._say_health()

    def desire(self, ref: ReleaseRef, version: int, policy: Policy = POLICY) -> None:
        """The cloud's word."""
        self.service.on_desired(Desired(version=version, slots={SLOT: ref}, policy=policy))

    def until(self, state: UpdateState, target: ReleaseRef | None = None) -> ReportedSlot:
        """Wait for a report of that state, and of that target or (idle) of that running release."""
        until_s = time.monotonic() + DEADLINE_S
        while True:
            try:
                slot = self.reports.get(timeout=max(0.0, until_s - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"never {state}: {[(s.state, s.error) for s in self.history[-8:]]}") from None
            self.history.append(slot)
            if slot.state == state and target in (None, slot.running if state == "idle" else slot.target):
                return slot

    def _report(self, slots: dict[str, ReportedSlot]) -> None:
        slot = slots[SLOT]
        self.report_hook(slot)
        self.reports.put(slot)

    def _switch(self, slot: str, ref: ReleaseRef, bundle_dir: str) -> None:
        self.switch_hook(ref)
        ok = self.loads(ref)
        if ok:
            open_version(Path(bundle_dir), ref, VARIANT)
            self.running = ref
        self.service.on_switched(Switched(boot=1, slot=slot, ref=ref, ok=ok, runtime="onnx", precision="int8"))
        self._say_health()

    def _ask(self, wish: ShadowWish) -> None:
        self.wishes.append(wish)

    def _say_health(self) -> None:
        assert self.running is not None
        errors = self.errors_of(self.running)
        self.service.on_health(
            SlotHealth(
                boot=1,
                slot=SLOT,
                ref=self.running,
                decisions=0 if errors else 30,
                errors=errors,
                latency_mean_us=100.0,
                latency_max_us=200.0,
                confidence_mean=0.9,
                dropped=0,
                idle=False,
            )
        )
